"""Autoscaling through the steps of a release: real workers come and go, and counts survive what moves traffic."""

from __future__ import annotations

import boto3
import pytest

from tasks.adapters.scaling_overview import scalable_targets, scaling_view
from tasks.adapters.scaling_requests import where
from tasks.errors import RefusedRequest
from tasks.following import follow_trial, wait_until_serving
from tasks.plans import ReleasePlan
from tasks.scale import make_ready, put_scaling
from tasks.scaling_plan import Scaling
from tasks.trial import end_other_trial, finish_trial, start_trial
from tests.adapters.releasing import Desk, plan_of, story
from tests.local.stack import until

# At 60 times the wall clock a minute is a second: 40 requests a second are 40 a minute.
TRACKING = Scaling(kind="target_tracking", target=15, max_instances=3, scale_out_cooldown=0, scale_in_cooldown=60)


def count(desk: Desk, endpoint: str) -> int:
    """Processes of the endpoint's serving fleet, once nothing is under way."""
    wait_until_serving(desk.cloud(), endpoint)
    return desk.cloud().trials.standing(endpoint).instances["AllTraffic"]


def reached(desk: Desk, endpoint: str, wanted: int) -> None:
    until(lambda: count(desk, endpoint), lambda seen: seen == wanted, seconds=90)


def resources(desk: Desk, endpoint: str) -> set[str]:
    return {target["ResourceId"].rpartition("/")[2] for target in scalable_targets(desk.cloud().connection, endpoint)}


def test_load_scales_out_and_in_and_an_update_keeps_the_count(desk: Desk) -> None:
    plan = plan_of("scale-load", "ALL_AT_ONCE", scaling=TRACKING)
    desk.serve(plan)
    rollout = desk.release(plan, "2")
    assert rollout.phase == "promoted", story(rollout)
    assert rollout.scaling == "1 to 3 instances, SageMakerVariantInvocationsPerInstance at 15"
    with desk.load(plan.endpoint) as seen:
        reached(desk, plan.endpoint, 3)
    assert set(seen) == {200}

    unsaid = plan_of("scale-load", "ALL_AT_ONCE")  # a plan that leaves autoscaling alone
    rollout = desk.release(unsaid, "3")
    assert rollout.phase == "promoted" and rollout.scaling == "", story(rollout)
    assert count(desk, plan.endpoint) == 3
    (view,) = scaling_view(desk.cloud().connection, plan.endpoint)
    assert (view.variant, view.low, view.high, view.held) == ("AllTraffic", 1, 3, False)
    assert view.policies == ("SageMakerVariantInvocationsPerInstance at 15",)
    assert view.last == "Setting desired instance count to 3. Successful"
    assert desk.cloud().overview(plan.endpoint)[0].scaling == (view,)
    with desk.load(plan.endpoint, rate=4) as seen:  # without any request there would be no metric, as on AWS
        reached(desk, plan.endpoint, 1)
    assert set(seen) == {200}


def test_a_trial_holds_the_old_version_and_lets_the_new_one_grow(desk: Desk) -> None:
    plan = plan_of("scale-trial", "WEIGHTS", scaling=TRACKING, step_percent=50)
    cloud, new = desk.cloud(), desk.version("2")
    desk.serve(plan)
    put_scaling(cloud, plan)
    with desk.load(plan.endpoint):
        reached(desk, plan.endpoint, 3)
    with desk.load(plan.endpoint, rate=30):
        asked = start_trial(cloud, new, plan)
        step = follow_trial(cloud, asked, plan, 50, lambda share, text: None)
        assert step.outcome == "promoted", step
        assert resources(desk, plan.endpoint) == {"AllTraffic", "challenger"}
        new_view, old_view = sorted(
            scaling_view(cloud.connection, plan.endpoint), key=lambda each: each.variant, reverse=True
        )
        assert old_view.variant == "AllTraffic" and old_view.held and old_view.low == 1
        assert new_view.held and new_view.low == new_view.high == 3, "it does not shrink below what the old one had"
        rollout = finish_trial(cloud, asked, new, plan, (step,), None)
    assert rollout.phase == "promoted", story(rollout)
    assert count(desk, plan.endpoint) == 3
    assert resources(desk, plan.endpoint) == {"AllTraffic"}
    cloud.close(plan.endpoint, rollout.previous_config)
    (view,) = scaling_view(cloud.connection, plan.endpoint)
    assert not view.held


def test_a_trial_that_died_leaves_no_target_behind(desk: Desk) -> None:
    plan = plan_of("scale-died", "WEIGHTS", scaling=TRACKING, step_percent=50)
    cloud = desk.cloud()
    before = desk.serve(plan)
    put_scaling(cloud, plan)
    with desk.load(plan.endpoint):
        asked = start_trial(cloud, desk.version("2"), plan)
        follow_trial(cloud, asked, plan, 50, lambda share, text: None)
    assert resources(desk, plan.endpoint) == {"AllTraffic", "challenger"}  # and here it dies
    end_other_trial(cloud, desk.version("3"), plan)
    assert cloud.serving_config(plan.endpoint) == before
    cloud.close(plan.endpoint, None)
    assert [(view.variant, view.held) for view in scaling_view(cloud.connection, plan.endpoint)] == [
        ("AllTraffic", False)
    ]


def test_what_the_challenger_had_grown_to_is_what_the_new_version_gets(desk: Desk) -> None:
    plan = plan_of("scale-level", "WEIGHTS")
    cloud, new = desk.cloud(), desk.version("2")
    desk.serve(plan)
    with desk.load(plan.endpoint):
        asked = start_trial(cloud, new, plan)
        step = follow_trial(cloud, asked, plan, 50, lambda share, text: None)
    change = {"VariantName": "challenger", "DesiredInstanceCount": 2}
    client = boto3.client("sagemaker", endpoint_url=desk.url, region_name="us-east-1")
    client.update_endpoint_weights_and_capacities(EndpointName=plan.endpoint, DesiredWeightsAndCapacities=[change])
    wait_until_serving(cloud, plan.endpoint)
    step = step.model_copy(update={"outcome": "promoted"})
    finish_trial(cloud, asked, new, plan, (step,), None)
    assert count(desk, plan.endpoint) == 2


def test_steps_run_by_our_own_alarms_and_nothing_is_left_of_them(desk: Desk) -> None:
    steps = Scaling.model_validate(
        {
            "kind": "step", "target": 10, "scale_in_below": 5, "scale_out_cooldown": 60,
            "steps": [{"above": 0, "add": 1}, {"above": 20, "add": 2}],
            "schedule": [{"schedule": "cron(0 8 ? * MON-FRI *)", "min_instances": 2}],
        }
    )  # fmt: skip
    plan = plan_of("scale-steps", "ALL_AT_ONCE", scaling=steps)
    cloud = desk.cloud()
    desk.serve(plan)
    assert put_scaling(cloud, plan) == "1 to 4 instances, steps +1, +2, steps -1, 1 scheduled"
    alarms = names_of_alarms(desk, plan)
    assert len(alarms) == 2
    assert put_scaling(cloud, plan) and names_of_alarms(desk, plan) == alarms, "asked twice is done once"
    assert [view.scheduled for view in scaling_view(cloud.connection, plan.endpoint)] == [1]
    with desk.load(plan.endpoint):
        until(lambda: count(desk, plan.endpoint), lambda seen: seen >= 3, seconds=90)
    assert cloud.sweep(plan.endpoint, keep={str(cloud.serving_config(plan.endpoint))}) == []
    assert names_of_alarms(desk, plan) == alarms

    simple = plan.model_copy(update={"scaling": Scaling(kind="simple", target=99)})
    put_scaling(cloud, simple)
    assert len(names_of_alarms(desk, plan)) == 1 and not names_of_alarms(desk, plan) & alarms
    assert [view.scheduled for view in scaling_view(cloud.connection, plan.endpoint)] == [0]
    off = plan.model_copy(update={"scaling": Scaling(kind="off")})
    assert put_scaling(cloud, off) == "off" and resources(desk, plan.endpoint) == set()
    assert names_of_alarms(desk, plan) == set()
    put_scaling(cloud, plan)
    cloud.delete_endpoint(plan.endpoint, poll_seconds=0.1)
    assert names_of_alarms(desk, plan) == set() and resources(desk, plan.endpoint) == set()


def names_of_alarms(desk: Desk, plan: ReleasePlan) -> set[str]:
    client = boto3.client("cloudwatch", endpoint_url=desk.url, region_name="us-east-1")
    found = client.describe_alarms(AlarmNamePrefix=f"{plan.endpoint}-scaling-")["MetricAlarms"]
    return {alarm["AlarmName"] for alarm in found}


def test_what_a_person_deleted_with_the_endpoint_is_swept(desk: Desk) -> None:
    plan = plan_of("scale-swept", "ALL_AT_ONCE", scaling=Scaling(kind="simple"))
    desk.serve(plan)
    put_scaling(desk.cloud(), plan)
    client = boto3.client("sagemaker", endpoint_url=desk.url, region_name="us-east-1")
    client.delete_endpoint(EndpointName=plan.endpoint)
    until(lambda: desk.cloud().serving(plan.endpoint), lambda seen: seen is None)
    swept = {each.partition(" ")[0] for each in desk.cloud().sweep(plan.endpoint)}
    assert swept == {"scalable-target", "scaling-alarm", "endpoint-config", "model"}
    assert names_of_alarms(desk, plan) == set()
    assert desk.cloud().sweep(plan.endpoint) == []


def test_another_instance_type_makes_way_and_scales_again(desk: Desk) -> None:
    plan = plan_of("scale-type", "ALL_AT_ONCE", scaling=TRACKING, min_requests=0)
    desk.serve(plan)
    put_scaling(desk.cloud(), plan)
    unsaid = plan.model_copy(update={"instance_type": "ml.c6i.xlarge", "scaling": Scaling()})
    with pytest.raises(RefusedRequest, match="refuses another instance type"):
        make_ready(desk.cloud(), unsaid)
    rollout = desk.release(unsaid.model_copy(update={"scaling": TRACKING}), "2")
    assert rollout.phase == "promoted", story(rollout)
    assert resources(desk, plan.endpoint) == {"AllTraffic"}


def test_another_persons_policy_on_the_metric_is_said_before(desk: Desk) -> None:
    plan = plan_of("scale-theirs", "ALL_AT_ONCE", scaling=TRACKING)
    desk.serve(plan)
    client = boto3.client("application-autoscaling", endpoint_url=desk.url, region_name="us-east-1")
    client.register_scalable_target(**where(plan.endpoint), MinCapacity=1, MaxCapacity=2)
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    config = {"TargetValue": 5.0, "PredefinedMetricSpecification": metric}
    client.put_scaling_policy(
        **where(plan.endpoint), PolicyName="theirs", PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=config,
    )  # fmt: skip
    with pytest.raises(RefusedRequest, match="another policy tracks this metric") as refused:
        make_ready(desk.cloud(), plan)
    assert "theirs" in str(refused.value.observed)
    make_ready(desk.cloud(), plan.model_copy(update={"scaling": Scaling()}))
