"""Application Auto Scaling with plain boto3: alarms that really start and stop model servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.local.endpoint_service.scaling.decisions import breach, stepped, tracked
from deployments.local.endpoint_service.scaling.schedules import next_time
from deployments.local.endpoint_service.wire import AwsError
from tests.local.load import load
from tests.local.stack import Deck, policy, until, variant
from tests.local.test_restart import now
from tests.local.test_rollouts import update

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
INVOCATIONS = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
CONCURRENCY = {"PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"}


class Scaled:
    """A variant under Application Auto Scaling, and short ways to ask about it."""

    def __init__(self, deck: Deck, endpoint: str, low: int, high: int) -> None:
        self.deck = deck
        self.endpoint = endpoint
        self.client = deck.service.client("application-autoscaling")
        self.where = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{endpoint}/variant/main",
            "ScalableDimension": DIMENSION,
        }
        self.arn = self.client.register_scalable_target(**self.where, MinCapacity=low, MaxCapacity=high)[
            "ScalableTargetARN"
        ]

    def track(self, name: str = "tracking", goal: float = 2.0, **more: Any) -> list[str]:
        """A target tracking policy without cooldowns; the names of its alarms."""
        config = {"TargetValue": goal, "ScaleOutCooldown": 0, "ScaleInCooldown": 0, **more}
        made = self.client.put_scaling_policy(
            **self.where,
            PolicyName=name,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration=config,
        )
        return [alarm["AlarmName"] for alarm in made["Alarms"]]

    def step(self, name: str, kind: str, *steps: tuple[float | None, float | None, int], **more: Any) -> str:
        members = ("MetricIntervalLowerBound", "MetricIntervalUpperBound", "ScalingAdjustment")
        found = [{key: value for key, value in zip(members, step, strict=True) if value is not None} for step in steps]
        config = {"AdjustmentType": kind, "StepAdjustments": found, "Cooldown": 0, **more}
        made: str = self.client.put_scaling_policy(
            **self.where, PolicyName=name, PolicyType="StepScaling", StepScalingPolicyConfiguration=config
        )["PolicyARN"]
        return made

    def suspend(self, **state: bool) -> None:
        self.client.register_scalable_target(**self.where, SuspendedState=state)

    def count(self) -> int:
        """Instances, once nothing is under way."""
        found: int = self.deck.settled(self.endpoint)["ProductionVariants"][0]["CurrentInstanceCount"]
        return found

    def reached(self, count: int) -> None:
        until(self.count, lambda seen: seen == count, seconds=90)

    def activities(self, every: bool = False) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.describe_scaling_activities(
            ServiceNamespace="sagemaker", ResourceId=self.where["ResourceId"], IncludeNotScaledActivities=every
        )["ScalingActivities"]
        return found

    def reasons(self) -> set[str]:
        return {reason["Code"] for each in self.activities(True) for reason in each.get("NotScaledReasons", [])}


class Gauge:
    """A metric of our own: every minute of the last twenty and of the next hundred has the value."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.name = f"load-{uuid.uuid4().hex[:8]}"
        self.spec = {"Namespace": "Rehearsal", "MetricName": self.name, "Statistic": "Average"}

    def put(self, value: float) -> None:
        start = now(self._deck)
        data = [
            {"MetricName": self.name, "Value": value, "Timestamp": datetime.fromtimestamp(start - 60 * back, UTC)}
            for back in range(-110, 20)
        ]
        self._deck.cloudwatch.put_metric_data(Namespace="Rehearsal", MetricData=data)


def test_load_scales_out_and_an_update_keeps_the_count(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled = Scaled(deck, endpoint, 1, 3)
    high, low = scaled.track(PredefinedMetricSpecification=INVOCATIONS)
    assert high.startswith(f"TargetTracking-endpoint/{endpoint}/variant/main-AlarmHigh-")
    assert low.startswith(f"TargetTracking-endpoint/{endpoint}/variant/main-AlarmLow-")
    shown = {
        each["AlarmName"]: each for each in deck.cloudwatch.describe_alarms(AlarmNames=[high, low])["MetricAlarms"]
    }
    assert (shown[high]["EvaluationPeriods"], shown[high]["Threshold"], shown[high]["Period"]) == (3, 2.0, 60)
    assert (shown[low]["EvaluationPeriods"], shown[low]["Threshold"], shown[low]["Period"]) == (15, 1.8, 60)
    new = deck.config()
    with load(deck, endpoint) as seen:
        scaled.reached(3)
        done = until(scaled.activities, lambda seen: seen and seen[0]["StatusCode"] == "Successful")[0]
        assert done["Cause"] == f"monitor alarm {high} in state ALARM triggered policy tracking"
        assert done["Description"] == "Setting desired instance count to 3."
        until(scaled.reasons, lambda seen: "AlreadyAtMaxCapacity" in seen)
        wait = policy({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}, end=180)
        update(deck, endpoint, new, wait, RetainAllVariantProperties=True)
        until(scaled.reasons, lambda seen: "TargetServicePutResourceAsUnscalable" in seen)
        found = deck.settled(endpoint)
    assert seen.lost == []
    assert found["EndpointConfigName"] == new and found["ProductionVariants"][0]["CurrentInstanceCount"] == 3
    assert scaled.count() == 3
    assert all("NotScaledReasons" not in each for each in scaled.activities())

    deck.made.remove(endpoint)
    deck.sagemaker.delete_endpoint(EndpointName=endpoint)
    for answer in (
        scaled.client.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[scaled.where["ResourceId"]]),
        scaled.client.describe_scaling_policies(ServiceNamespace="sagemaker", ResourceId=scaled.where["ResourceId"]),
        deck.cloudwatch.describe_alarms(AlarmNames=[high, low]),
    ):
        assert [value for key, value in answer.items() if key != "ResponseMetadata" and value] == []


def test_concurrent_requests_scale_out_within_seconds(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(ECHO_SECONDS="0.5"))
    scaled = Scaled(deck, endpoint, 1, 2)
    high, _ = scaled.track(goal=1.0, PredefinedMetricSpecification=CONCURRENCY)
    assert deck.cloudwatch.describe_alarms(AlarmNames=[high])["MetricAlarms"][0]["Period"] == 10
    with load(deck, endpoint, threads=4):
        scaled.reached(2)


def test_target_tracking_scales_in_unless_told_not_to(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(count=3))
    scaled, gauge = Scaled(deck, endpoint, 1, 3), Gauge(deck)
    gauge.put(2.5)
    assert len(scaled.track(goal=10.0, CustomizedMetricSpecification=gauge.spec, DisableScaleIn=True)) == 1
    other = Gauge(deck)
    other.put(6.0)  # this one allows two instances
    scaled.suspend(DynamicScalingInSuspended=True)
    _, low = scaled.track("other", goal=10.0, CustomizedMetricSpecification=other.spec)
    until(
        lambda: deck.cloudwatch.describe_alarms(AlarmNames=[low])["MetricAlarms"][0]["StateValue"],
        lambda state: state == "ALARM",
    )
    assert scaled.count() == 3 and scaled.activities() == []
    scaled.suspend(DynamicScalingInSuspended=False)
    scaled.reached(2)
    scaled.track(goal=10.0, CustomizedMetricSpecification=gauge.spec)
    until(scaled.reasons, lambda seen: "AutoScalingAnticipatedFlapping" in seen)  # 2 × 0.6 is more than one
    assert scaled.count() == 2
    scaled.client.delete_scaling_policy(**scaled.where, PolicyName="other")
    scaled.reached(1)


def test_target_tracking_follows_metric_math(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled, waiting, done = Scaled(deck, endpoint, 1, 3), Gauge(deck), Gauge(deck)
    waiting.put(10.0)
    done.put(2.0)

    def stat(gauge: Gauge) -> dict[str, Any]:
        return {"Metric": {"Namespace": "Rehearsal", "MetricName": gauge.name}, "Stat": "Average"}

    queries: list[dict[str, Any]] = [
        {"Id": "w", "MetricStat": stat(waiting), "ReturnData": False},
        {"Id": "d", "MetricStat": stat(done), "ReturnData": False},
        {"Id": "share", "Expression": "w / d", "ReturnData": True},
    ]
    high, low = scaled.track(goal=2.0, CustomizedMetricSpecification={"Metrics": queries})
    shown = deck.cloudwatch.describe_alarms(AlarmNames=[high, low])["MetricAlarms"]
    assert [query.get("MetricStat", {}).get("Period") for query in shown[0]["Metrics"]] == [60, 60, None]
    scaled.reached(3)  # 5 a target of 2: two and a half times as many
    for wrong, message in (
        ([*queries, {"Id": "other", "Expression": "w + d"}], "Exactly one element of Metrics must return data"),
        ([{"Id": "share", "Expression": "w / d"}], "Unknown metric"),
        ([{"Id": "share", "Expression": "w / "}], "Error in expression 'share'"),
    ):
        with pytest.raises(ClientError, match=message):
            scaled.track("wrong", goal=2.0, CustomizedMetricSpecification={"Metrics": wrong})
    with pytest.raises(ClientError, match="must not be specified together"):
        scaled.track("both", goal=2.0, CustomizedMetricSpecification={"Metrics": queries, **waiting.spec})


def test_an_update_may_change_a_scaled_variants_model_and_nothing_else(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled = Scaled(deck, endpoint, 1, 2)
    other = variant("main", deck.model()) | {"InstanceType": "ml.m5.xlarge"}
    for config in (deck.config(other), deck.config(variant("second", deck.model()))):
        with pytest.raises(ClientError, match=r'The variant "main" .* is a scalable target'):
            deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
    update(deck, endpoint, deck.config())
    deck.settled(endpoint)
    scaled.client.deregister_scalable_target(**scaled.where)
    update(deck, endpoint, deck.config(other))
    deck.settled(endpoint)


def test_an_alarm_runs_step_policies_and_cooldowns_hold_them(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled, gauge = Scaled(deck, endpoint, 1, 4), Gauge(deck)
    steps = (0, 10, 1), (10, None, 2)
    out = scaled.step("out", "ChangeInCapacity", *steps, MetricAggregationType="Maximum", Cooldown=7200)
    back = scaled.step("back", "PercentChangeInCapacity", (None, 0, -50), Cooldown=120)

    def alarm(threshold: float) -> None:
        deck.cloudwatch.put_metric_alarm(
            AlarmName=gauge.name,
            **gauge.spec,
            Period=60,
            EvaluationPeriods=2,
            Threshold=threshold,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=[out],
            OKActions=[back],
        )

    alarm(threshold=5)
    listed = scaled.client.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["out"])
    assert [alarm["AlarmName"] for alarm in listed["ScalingPolicies"][0]["Alarms"]] == [gauge.name]
    gauge.put(20)
    scaled.reached(3)  # one and two; what was added counts while the alarm repeats its action
    repeated = now(deck) + 180
    until(lambda: now(deck), lambda seen: seen > repeated)
    assert scaled.count() == 3
    alarm(threshold=50)
    scaled.reached(1)  # half of three is one less, and so is half of two
    done = scaled.activities()[::-1]
    assert [each["Description"] for each in done] == [
        f"Setting desired instance count to {count}." for count in (3, 2, 1)
    ]
    assert (done[2]["StartTime"] - done[1]["StartTime"]).total_seconds() >= 120
    deck.cloudwatch.delete_alarms(AlarmNames=[gauge.name])


def test_bounds_move_the_count_and_a_schedule_moves_the_bounds(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled = Scaled(deck, endpoint, 2, 3)
    scaled.reached(2)
    first = until(scaled.activities, lambda seen: seen and seen[0]["StatusCode"] == "Successful")[0]
    assert first["Cause"] == "minimum capacity was set to 2"
    client = scaled.client
    when = datetime.fromtimestamp(now(deck) + 90, UTC)
    client.put_scheduled_action(
        **scaled.where,
        ScheduledActionName="night",
        Schedule=f"at({when:%Y-%m-%dT%H:%M:%S})",
        ScalableTargetAction={"MinCapacity": 1, "MaxCapacity": 1},
    )
    assert client.describe_scheduled_actions(ServiceNamespace="sagemaker", ResourceId=scaled.where["ResourceId"])[
        "ScheduledActions"
    ][0]["ScalableTargetAction"] == {"MinCapacity": 1, "MaxCapacity": 1}
    scaled.reached(1)
    said = {each["Cause"]: each["Description"] for each in scaled.activities()}
    assert said["scheduled action name night was triggered"] == "Setting min capacity to 1 and max capacity to 1"
    assert said["maximum capacity was set to 1"] == "Setting desired instance count to 1."
    client.delete_scheduled_action(**scaled.where, ScheduledActionName="night")
    client.tag_resource(ResourceARN=scaled.arn, Tags={"team": "a"})
    assert client.list_tags_for_resource(ResourceARN=scaled.arn)["Tags"] == {"team": "a"}
    client.deregister_scalable_target(**scaled.where)
    with pytest.raises(ClientError, match="No scalable target found for service namespace: sagemaker"):
        client.deregister_scalable_target(**scaled.where)


def test_what_is_refused(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    scaled = Scaled(deck, endpoint, 1, 2)
    client, where = scaled.client, scaled.where

    def refused(call: Callable[[], Any], message: str, code: str = "ValidationException") -> None:
        with pytest.raises(ClientError, match=message) as error:
            call()
        assert error.value.response["Error"]["Code"] == code

    def register(**change: Any) -> Callable[[], Any]:
        return lambda: client.register_scalable_target(**where | {"MinCapacity": 1, "MaxCapacity": 2} | change)

    provisioned = "sagemaker:variant:DesiredProvisionedConcurrency"
    refused(register(ScalableDimension=provisioned), f"ScalableDimension {provisioned}", "NotImplementedException")
    refused(register(ServiceNamespace="ecs"), "ServiceNamespace ecs", "NotImplementedException")
    refused(register(ResourceId="endpoint/none/variant/main"), 'Could not find endpoint "arn:aws:sagemaker:')
    refused(register(ResourceId=f"endpoint/{endpoint}/variant/none"), 'Could not find variant "none"')
    refused(register(ResourceId="variant/main"), "Unsupported service namespace, resource type or scalable dimension")
    refused(register(MinCapacity=3), "Maximum capacity cannot be less than minimum capacity")
    refused(register(MinCapacity=0), "must be at least 1")
    refused(lambda: scaled.step("s", "ChangeInCapacity", (0, 5, 1), (6, None, 2)), "must not be a gap")
    refused(lambda: scaled.step("s", "ChangeInCapacity", (0, 5, 1), (4, None, 2)), "must not be an overlap")
    refused(lambda: scaled.step("s", "ExactCapacity", (0, None, 1), MinAdjustmentMagnitude=2), "MinAdjustmentMagnitude")
    refused(lambda: scaled.track(), "Exactly one of PredefinedMetricSpecification")
    refused(lambda: scaled.track(goal=0.0, PredefinedMetricSpecification=INVOCATIONS), "greater than 0")
    ecs = {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"}
    refused(lambda: scaled.track(PredefinedMetricSpecification=ecs), "is not supported for scalable dimension")
    scaled.track(PredefinedMetricSpecification=INVOCATIONS)
    refused(lambda: scaled.track("twice", PredefinedMetricSpecification=INVOCATIONS), "Only one TargetTrackingScaling")
    refused(
        lambda: client.put_scheduled_action(
            **where,
            ScheduledActionName="s",
            Schedule="at(2020-01-01T00:00:00)",
            ScalableTargetAction={"MinCapacity": 1},
        ),
        "has no time in the future",
    )
    refused(
        lambda: client.delete_scaling_policy(**where, PolicyName="none"),
        "No scaling policy found for",
        "ObjectNotFoundException",
    )


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("at(2026-03-01T12:00:00)", "Europe/Paris", "2026-03-01T11:00:00"),
        ("at(2026-01-01T00:00:00)", "UTC", None),
        ("rate(5 minutes)", "UTC", "2026-02-28T23:35:00"),
        ("rate(1 day)", "UTC", "2026-03-01T23:00:00"),
        ("cron(0 8 ? * 2-6 *)", "UTC", "2026-03-02T08:00:00"),  # 1 is Sunday
        ("cron(0/15 9 1 * ? *)", "Asia/Tokyo", "2026-03-01T00:00:00"),
        ("cron(30 6 ? * 1#2 2027)", "UTC", "2027-01-10T06:30:00"),
        ("cron(0 0 L * ? *)", "UTC", "2026-03-31T00:00:00"),
        ("cron(0 0 1 1 ? 2025)", "UTC", None),
    ],
)
def test_schedules(expression: str, zone: str, expected: str | None) -> None:
    anchor = datetime(2026, 2, 28, 23, 0, tzinfo=UTC).timestamp()
    found = next_time(expression, zone, anchor, anchor + 31 * 60)
    shown = None if found is None else f"{datetime.fromtimestamp(found, UTC):%Y-%m-%dT%H:%M:%S}"
    assert shown == expected


@pytest.mark.parametrize("expression", ["at(noon)", "rate(0 minutes)", "cron(0 8 * * * *)", "cron(0 8)", "every day"])
def test_schedules_that_are_none(expression: str) -> None:
    with pytest.raises(AwsError, match="is not valid"):
        next_time(expression, "UTC", 0, 0)


@pytest.mark.parametrize(
    ("kind", "adjustment", "least", "base", "expected"),
    [
        ("ChangeInCapacity", 2, 0, 3, 5),
        ("ExactCapacity", 7, 0, 3, 7),
        ("PercentChangeInCapacity", 10, 0, 3, 4),  # between 0 and 1 is 1
        ("PercentChangeInCapacity", -10, 0, 3, 2),
        ("PercentChangeInCapacity", 50, 0, 5, 7),  # 2.5 is cut
        ("PercentChangeInCapacity", -50, 0, 5, 3),
        ("PercentChangeInCapacity", 10, 3, 10, 13),
    ],
)
def test_adjustments(kind: str, adjustment: int, least: int, base: int, expected: int) -> None:
    steps = [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": adjustment}]
    config = {"AdjustmentType": kind, "StepAdjustments": steps, "MinAdjustmentMagnitude": least}
    assert stepped(config, 0.0, base) == expected
    assert stepped(config, -1.0, base) is None


def test_decisions() -> None:
    assert (tracked(30.0, 10.0, 2), tracked(10.0, 10.0, 2), tracked(10.1, 10.0, 2)) == (6, 2, 3)
    assert breach({}, [None, 4.0, 8.0], 5.0) == 1.0
    assert breach({"MetricAggregationType": "Maximum"}, [4.0, 8.0], 5.0) == 3.0
