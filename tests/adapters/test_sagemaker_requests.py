"""What is sent to SageMaker, and what never is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_limits import check_request, service_model
from tasks.adapters.sagemaker_metrics import bounds, metric_queries
from tasks.adapters.sagemaker_names import content_name, is_name_of
from tasks.adapters.sagemaker_observe import traffic_shares
from tasks.adapters.sagemaker_requests import (
    alarm_names,
    alarms,
    blueprint,
    create_endpoint,
    dimensions,
    update_endpoint,
)
from tasks.adapters.sagemaker_trials import replace, trial_config, weights
from tasks.errors import RefusedRequest
from tasks.plans import Mode, Rehearsal, ReleasePlan
from tests.adapters.packages import AWS_PLAN, ROLE, on_aws, package

GUARDS = {"Alarms": [{"AlarmName": f"new-{kind}"} for kind in ("errors", "latency", "judge")]}
CANARY = update_endpoint("e", "c", AWS_PLAN, retain=False)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SageMaker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield on_aws(tmp_path_factory.mktemp("aws"))


def test_the_requests_of_one_fleet() -> None:
    made = blueprint(package("7"), AWS_PLAN, ROLE, {"SLIMLINE_THREADS": "4"})
    assert made.name.startswith("slimline-demo-v7-")
    tags = {tag["Key"]: tag["Value"] for tag in made.tags}
    assert tags["slimline:version"] == "7"
    assert tags["slimline:digest"] == "a" * 64
    assert made.model == {
        "ModelName": made.name,
        "PrimaryContainer": {
            "Image": "111111111111.dkr.ecr.us-east-1.amazonaws.com/slimline-inference:0.1.0",
            "ModelDataSource": {
                "S3DataSource": {
                    "S3Uri": f"s3://slimline-models/models/{'a' * 64}/",
                    "S3DataType": "S3Prefix", "CompressionType": "None",
                }
            },
            "Environment": {"SLIMLINE_THREADS": "4"},
        },
        "ExecutionRoleArn": ROLE,
        "EnableNetworkIsolation": False,
        "Tags": made.tags,
    }  # fmt: skip
    assert made.config == {
        "EndpointConfigName": made.name,
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic", "ModelName": made.name, "InitialInstanceCount": 2,
                "InstanceType": "ml.m5.xlarge", "InitialVariantWeight": 1.0,
            }
        ],
        "Tags": made.tags,
    }  # fmt: skip
    assert create_endpoint("e", made) == {"EndpointName": "e", "EndpointConfigName": made.name, "Tags": made.tags}


@pytest.mark.parametrize(
    ("plan", "routing", "timeout"),
    [
        (
            {"mode": "CANARY", "step_percent": 50},
            {
                "Type": "CANARY", "WaitIntervalInSeconds": 300,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50},
            },
            4200,
        ),
        (
            {"mode": "LINEAR", "step_percent": 25, "instances": 4},
            {
                "Type": "LINEAR", "WaitIntervalInSeconds": 300,
                "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
            },
            4800,
        ),
        ({"mode": "ALL_AT_ONCE"}, {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}, 3900),
    ],
)  # fmt: skip
def test_an_update_is_guarded_by_alarms_on_the_new_fleet(plan: dict[str, Any], routing: Any, timeout: int) -> None:
    request = update_endpoint("e", "new", AWS_PLAN.model_copy(update=plan), retain=True)
    assert request == {
        "EndpointName": "e",
        "EndpointConfigName": "new",
        "RetainAllVariantProperties": True,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": 300,
                "MaximumExecutionTimeoutInSeconds": timeout,
            },
            "AutoRollbackConfiguration": GUARDS,
        },
    }


def test_the_alarms_see_the_new_fleet_only() -> None:
    errors, latency, judge = alarms("e", "new", AWS_PLAN)
    assert errors["Dimensions"] == latency["Dimensions"] == [
        {"Name": "EndpointName", "Value": "e"},
        {"Name": "VariantName", "Value": "AllTraffic"},
        {"Name": "EndpointConfigName", "Value": "new"},
    ]  # fmt: skip
    assert (errors["MetricName"], errors["Statistic"], errors["Threshold"]) == ("Invocation5XXErrors", "Average", 0.02)
    assert (latency["MetricName"], latency["Statistic"], latency["Threshold"]) == (
        "ModelLatency",
        "Average",
        30_000_000,
    )
    assert {errors["Period"], latency["Period"]} == {60}
    assert {errors["TreatMissingData"], latency["TreatMissingData"]} == {"notBreaching"}
    # Nothing writes its metric, and what is missing is ignored: it stays as the judge sets it.
    assert (judge["AlarmName"], judge["TreatMissingData"]) == ("new-judge", "ignore")
    assert judge["Namespace"] != errors["Namespace"]


def test_a_rolling_update_goes_by_batches() -> None:
    plan = AWS_PLAN.model_copy(update={"mode": "ROLLING", "step_percent": 25, "instances": 4})
    request = update_endpoint("e", "new", plan, retain=False)
    assert request["DeploymentConfig"] == {
        "RollingUpdatePolicy": {
            "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
            "WaitIntervalInSeconds": 300,
            "MaximumExecutionTimeoutInSeconds": 4800,
        },
        "AutoRollbackConfiguration": GUARDS,
    }
    check_request("sagemaker", "UpdateEndpoint", request)


def trial_of(mode: Mode, **changes: Any) -> Any:
    plan = AWS_PLAN.model_copy(update={"mode": mode, **changes})
    made = blueprint(package("7"), plan, ROLE, {})
    serving = {"VariantName": "AllTraffic", "ModelName": "old", "InstanceType": "ml.g6e.xlarge"}
    return trial_config(made, serving, "before", 3, plan, "slimline-models")


def test_a_trial_has_both_versions_with_as_many_new_instances() -> None:
    config = trial_of("WEIGHTS")
    old, new = config["ProductionVariants"]
    assert (old["VariantName"], old["ModelName"], old["InitialVariantWeight"]) == ("AllTraffic", "old", 1.0)
    assert (new["VariantName"], new["InitialVariantWeight"]) == ("challenger", 0.0)
    assert old["InitialInstanceCount"] == new["InitialInstanceCount"] == 3
    assert old["InstanceType"] == "ml.g6e.xlarge"
    tags = {tag["Key"]: tag["Value"] for tag in config["Tags"]}
    assert tags["slimline:previous"] == "before" and tags["slimline:wanted"] == new["ModelName"]
    check_request("sagemaker", "CreateEndpointConfig", config)
    assert trial_of("WEIGHTS") == config and trial_of("AB_TEST") == config
    assert config["EndpointConfigName"] != trial_of("SHADOW")["EndpointConfigName"]


def test_a_shadow_gets_copies_and_both_sides_are_captured() -> None:
    config = trial_of("SHADOW", capture_percent=20)
    assert [each["VariantName"] for each in config["ProductionVariants"]] == ["AllTraffic"]
    assert [each["VariantName"] for each in config["ShadowProductionVariants"]] == ["challenger"]
    capture = config["DataCaptureConfig"]
    assert (capture["InitialSamplingPercentage"], capture["DestinationS3Uri"]) == (20, "s3://slimline-models/captures")
    check_request("sagemaker", "CreateEndpointConfig", config)
    twice = {
        **config,
        "ProductionVariants": [*config["ProductionVariants"], *trial_of("WEIGHTS")["ProductionVariants"]],
    }
    with pytest.raises(RefusedRequest, match="exactly one of each"):
        check_request("sagemaker", "CreateEndpointConfig", twice)


def test_weights_move_and_a_trial_ends_with_the_counts_of_now() -> None:
    request = weights("e", 25)
    assert [each["DesiredWeight"] for each in request["DesiredWeightsAndCapacities"]] == [0.75, 0.25]
    check_request("sagemaker", "UpdateEndpointWeightsAndCapacities", request)
    ends = replace("e", "new", retain=True)
    assert ends["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DesiredWeight"}]
    check_request("sagemaker", "UpdateEndpoint", ends)


def test_a_look_asks_for_both_histograms_in_one_call() -> None:
    bounds_ms = bounds(30_000, 120.0, 180.0)
    assert bounds_ms == tuple(sorted(set(bounds_ms))) and 30_000 in bounds_ms
    dims = dimensions("e", None, "challenger")
    queries = [*metric_queries("new", dims, bounds_ms, 60), *metric_queries("old", dims, bounds_ms, 60)]
    assert len(queries) <= 500 and len({query["Id"] for query in queries}) == len(queries)
    check_request("cloudwatch", "GetMetricData", {"MetricDataQueries": queries, "StartTime": 0, "EndTime": 60})


@pytest.mark.parametrize(
    ("mode", "shares"),
    [("WEIGHTS", (30, 60, 90)), ("AB_TEST", (30,)), ("SHADOW", (0,)), ("CANARY", ())],
)
def test_the_shares_of_each_mode(mode: Mode, shares: tuple[int, ...]) -> None:
    assert ReleasePlan(mode=mode, step_percent=30).shares == shares


def test_a_name_tells_its_endpoint_also_from_one_that_begins_alike() -> None:
    long = "a-very-long-name-of-an-endpoint-first"
    names = {each: content_name(each, "12", []) for each in ("a", "a-v2", long, f"{long[:-5]}other")}
    for endpoint, name in names.items():
        assert len(name) <= 63
        assert [each for each, made in names.items() if is_name_of(endpoint, made)] == [endpoint]
        assert all(is_name_of(endpoint, alarm) for alarm in alarm_names(name))


def test_names_come_from_what_is_served() -> None:
    def name(plan: ReleasePlan = AWS_PLAN, **changes: str) -> str:
        return blueprint(package(**changes), plan, ROLE, {}).name

    assert name() == name()
    assert name(AWS_PLAN.model_copy(update={"mode": "LINEAR", "bake_seconds": 60, "max_error_rate": 0.5})) == name()
    faulty = AWS_PLAN.model_copy(update={"rehearsal": Rehearsal(error_share=0.5)})
    others = [
        name(faulty), name(digest="c" * 64), name(version="2"), name(image="other"), name(s3_uri="s3://other/models/x/"),
        name(AWS_PLAN.model_copy(update={"instances": 3})), name(AWS_PLAN.model_copy(update={"endpoint": "other"})),
    ]  # fmt: skip
    assert len({name(), *others}) == 8


plans = st.builds(
    ReleasePlan,
    endpoint=st.from_regex(ReleasePlan.model_fields["endpoint"].metadata[0].pattern, fullmatch=True),
    mode=st.sampled_from(get_args(Mode)),
    instance_type=st.sampled_from(["ml.m5.xlarge", "ml.g6e.xlarge", "ml.inf2.xlarge", "m5.xlarge", ""]),
    instances=st.integers(1, 100),
    step_percent=st.integers(1, 50),
    bake_seconds=st.integers(0, 3600),
    max_error_rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    max_latency_ms=st.floats(min_value=0, exclude_min=True),
    rehearsal=st.builds(Rehearsal, requests_per_second=st.sampled_from([0.0, 0.0, 0.0, 2.0])),
)


@settings(max_examples=150, deadline=None)
@given(plan=plans, version=st.text(min_size=1, max_size=40))
def test_a_plan_that_passes_leads_only_to_requests_that_pass(aws: SageMaker, plan: ReleasePlan, version: str) -> None:
    try:
        aws.check_plan(plan)
    except RefusedRequest:
        return
    made = blueprint(package(version), plan, ROLE, {})
    requests: list[tuple[str, str, Any]] = [
        ("sagemaker", "CreateModel", made.model),
        ("sagemaker", "CreateEndpointConfig", made.config),
        ("sagemaker", "CreateEndpoint", create_endpoint(plan.endpoint, made)),
        (
            "sagemaker",
            "UpdateEndpoint",
            update_endpoint(plan.endpoint, made.name, plan.after_shadow if plan.on_trial else plan, retain=True),
        ),
        *(("cloudwatch", "PutMetricAlarm", alarm) for alarm in alarms(plan.endpoint, made.name, plan)),
    ]
    for service, operation, request in requests:
        shape = service_model(service).operation_model(operation).input_shape
        assert not ParamValidator().validate(request, shape).has_errors()
        check_request(service, operation, request)
    if plan.on_trial:
        trial: Any = trial_config(made, made.config["ProductionVariants"][0], "before", 2, plan, "slimline-models")
        check_request("sagemaker", "CreateEndpointConfig", trial)
    elif plan.mode != "ALL_AT_ONCE":
        assert 1 <= plan.instances * plan.step_percent / 100 <= plan.instances / 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instances": 1}, "at least 2 instances"),
        ({"step_percent": 49}, "at least one whole instance"),
        ({"mode": "LINEAR", "step_percent": 9, "instances": 50}, "10 to 50 %"),
        ({"mode": "ROLLING", "step_percent": 4, "instances": 50}, "5 to 50 %"),
        ({"mode": "ROLLING", "instances": 1}, "at least 2 instances"),
        ({"mode": "SHADOW", "bake_seconds": 59}, "at least 60 s"),
        ({"bake_seconds": 59}, "at least 60 s"),
        ({"mode": "LINEAR", "step_percent": 10, "instances": 10, "bake_seconds": 3600}, "25200 s"),
        ({"instance_type": "ml.m5.huge"}, "one of ml.m5.large"),
        ({"max_latency_ms": float("inf")}, "finite"),
        ({"rehearsal": Rehearsal(requests_per_second=1)}, "0 and 0"),
        ({"rehearsal": Rehearsal(requests_per_second=0, error_share=0.1)}, "0 and 0"),
    ],
)
def test_a_plan_that_cannot_work_on_aws_is_refused_with_its_limit(
    aws: SageMaker, change: dict[str, Any], said: str
) -> None:
    aws.check_plan(AWS_PLAN)
    with pytest.raises(RefusedRequest) as refused:
        aws.check_plan(AWS_PLAN.model_copy(update=change))
    assert said in str(refused.value.limit)
    assert refused.value.remedy


def test_placeholders_are_refused_on_aws(tmp_path: Path, aws: SageMaker) -> None:
    role = "arn:aws:iam::123456789012:role/slimline-endpoint"
    placeholder = SageMaker("us-east-1", None, "slimline-models", role, tmp_path / "ledger")
    with pytest.raises(RefusedRequest, match="placeholder"):
        placeholder.check_plan(AWS_PLAN)
    with pytest.raises(RefusedRequest, match="ECR"):
        aws.rollouts.create("e", package(image="slimline-inference:0.1.0"), AWS_PLAN)


def _set(request: Any, path: str, value: Any) -> Any:
    changed = copy.deepcopy(request)
    *parents, last = path.split(".")
    target = changed
    for part in parents:
        target = target[part]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return changed


ROUTING = "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("EndpointName", "a" * 64, "0 to 63 characters"),
        ("EndpointName", "ends-with-", "pattern"),
        ("EndpointName", None, "EndpointName"),
        ("Unknown", 1, "Unknown"),
        (f"{ROUTING}.Type", "SLOW", "ALL_AT_ONCE, CANARY, LINEAR"),
        (f"{ROUTING}.WaitIntervalInSeconds", 99_999, "0 to 3600"),
        (f"{ROUTING}.WaitIntervalInSeconds", -1, "-1"),
        (f"{ROUTING}.CanarySize", None, "exactly CanarySize"),
        (f"{ROUTING}.CanarySize.Value", 51, "1 to 50 %"),
        (f"{ROUTING}.LinearStepSize", {"Type": "CAPACITY_PERCENT", "Value": 20}, "exactly CanarySize"),
        ("DeploymentConfig.BlueGreenUpdatePolicy.TerminationWaitInSeconds", 3601, "0 to 3600"),
        ("DeploymentConfig.BlueGreenUpdatePolicy.MaximumExecutionTimeoutInSeconds", 599, "600"),
        ("DeploymentConfig.BlueGreenUpdatePolicy.MaximumExecutionTimeoutInSeconds", 28_801, "600 to 28800"),
        ("DeploymentConfig.BlueGreenUpdatePolicy", None, "exactly one of"),
        ("DeploymentConfig.AutoRollbackConfiguration.Alarms", [], "valid min length: 1"),
        ("DeploymentConfig.AutoRollbackConfiguration.Alarms", [{"AlarmName": f"a{n}"} for n in range(11)], "1 to 10"),
        ("DeploymentConfig.AutoRollbackConfiguration.Alarms", [{"AlarmName": " "}], "pattern"),
    ],
)
def test_each_bad_value_is_refused_with_its_limit(path: str, value: Any, said: str) -> None:
    check_request("sagemaker", "UpdateEndpoint", CANARY)
    with pytest.raises(RefusedRequest) as refused:
        check_request("sagemaker", "UpdateEndpoint", _set(CANARY, path, value))
    assert said in str(refused.value)


def test_two_variants_of_one_name_are_refused() -> None:
    config: Any = blueprint(package(), AWS_PLAN, ROLE, {}).config
    twice = {**config, "ProductionVariants": config["ProductionVariants"] * 2}
    with pytest.raises(RefusedRequest, match="rename a variant"):
        check_request("sagemaker", "CreateEndpointConfig", twice)


def test_a_body_above_the_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(RefusedRequest, match="6291456"):
        check_request("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "e", "Body": bytes(6_291_457)})


def _described(status: str, message: str, current: int) -> dict[str, Any]:
    """As in AWS's example of an endpoint deployment state change: both weights are 1."""
    fleet = {"VariantName": "AllTraffic", "CurrentWeight": 1.0, "DesiredWeight": 1.0, "DesiredInstanceCount": 3}
    new = {**fleet, "CurrentInstanceCount": current, "VariantStatus": [{"Status": status, "StatusMessage": message}]}
    return {
        "EndpointConfigName": "old",
        "ProductionVariants": [{**fleet, "CurrentInstanceCount": 3}],
        "PendingDeploymentSummary": {"EndpointConfigName": "new", "ProductionVariants": [new]},
    }


@pytest.mark.parametrize(
    ("status", "message", "current", "share"),
    [
        ("Creating", "", 0, 0.0),
        ("Creating", "", 3, 0.0),
        (
            "Baking",
            "Baking for 600 seconds (TerminationWaitInSeconds) with traffic enabled on canary capacity of "
            "1 instance(s).",
            1,
            1 / 3,
        ),
        ("Baking", "Baking for 60 seconds with traffic enabled on canary capacity of 1 instance(s).", 3, 1 / 3),
        ("Baking", "Baking for 60 seconds with traffic enabled on full capacity of 3 instance(s).", 3, 1.0),
        ("Baking", "", 2, 2 / 3),
        ("Deleting", "", 3, 0.0),
    ],
)
def test_traffic_shares_are_read_from_what_the_service_says(
    status: str, message: str, current: int, share: float
) -> None:
    shares = traffic_shares(_described(status, message, current))
    assert shares == {"old": pytest.approx(1 - share), "new": pytest.approx(share)}
    assert traffic_shares({"EndpointConfigName": "new", "ProductionVariants": []}) == {"new": 1.0}
