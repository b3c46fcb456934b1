"""Every operation of the service: at least one good call and one that is refused, with AWS's error code.

An operation that is added needs rows here: the suite compares this table with what the running service says it does.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.local.contract import RUNTIME, Row, World
from tests.local.stack import ROLE, canary, until, variant

Parameters = Callable[[World], dict[str, Any]]


def name(world: World, kind: str) -> str:
    """A name that nothing has yet."""
    return f"contract-{kind}-{next(world.numbers)}"


def sagemaker(operation: str, good: Parameters, **refused: Parameters) -> list[Row]:
    """A good call, and refused ones: ``rule`` fits the service model, ``shape`` does not."""
    rows = [Row("sagemaker", operation, good)]
    for kind, parameters in refused.items():
        rows.append(Row("sagemaker", operation, parameters, "ValidationException", 400, model=kind != "shape"))
    return rows


def cloudwatch(operation: str, good: Parameters, *refused: tuple[str, int, bool, Parameters]) -> list[Row]:
    """A good call, and refused ones: code, status, whether the service model allows the request, parameters."""
    rows = [Row("cloudwatch", operation, good)]
    return rows + [Row("cloudwatch", operation, each, code, status, fits) for code, status, fits, each in refused]


def runtime(operation: str, good: Parameters, *refused: tuple[str, int, bool, Parameters]) -> list[Row]:
    rows = [Row(RUNTIME, operation, good)]
    return rows + [Row(RUNTIME, operation, each, code, status, fits) for code, status, fits, each in refused]


def new_config(world: World, **change: Any) -> dict[str, Any]:
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 50,
        "DestinationS3Uri": "s3://contract/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    spec = variant("main", world.model, RoutingConfig={"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"})
    return {
        "EndpointConfigName": name(world, "config"),
        "ProductionVariants": [spec | change],
        "DataCaptureConfig": capture,
        "Tags": [{"Key": "suite", "Value": "contract"}],
    }


def weights(world: World, **change: Any) -> dict[str, Any]:
    wanted = {"VariantName": "main", "DesiredWeight": 2.0, "DesiredInstanceCount": 2} | change
    return {"EndpointName": world.ready(), "DesiredWeightsAndCapacities": [wanted]}


def update(world: World, **change: Any) -> dict[str, Any]:
    return {"EndpointName": world.ready(), "EndpointConfigName": world.deck.config(count=2)} | change


def baking(world: World) -> dict[str, Any]:
    """The endpoint in the middle of a deployment."""
    world.deck.sagemaker.update_endpoint(**update(world, DeploymentConfig=canary(50, wait=60, end=0)))

    def stages(seen: dict[str, Any]) -> list[str]:
        variants = seen.get("PendingDeploymentSummary", {}).get("ProductionVariants", [])
        return [status["Status"] for each in variants for status in each.get("VariantStatus", [])]

    until(lambda: world.deck.describe(world.endpoint), lambda seen: "Baking" in stages(seen))
    return {"EndpointName": world.endpoint}


def span(world: World) -> dict[str, Any]:
    now = world.deck.now()
    return {"StartTime": now - timedelta(hours=3), "EndTime": now + timedelta(minutes=1)}


def query(world: World, **change: Any) -> dict[str, Any]:
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "ModelLatency", "Dimensions": dimensions(world)}
    stat = {"Metric": metric, "Period": 60, "Stat": "p90"}
    return {"MetricDataQueries": [{"Id": "m1", "MetricStat": stat}], **span(world)} | change


def dimensions(world: World) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": world.endpoint}, {"Name": "VariantName", "Value": "main"}]


def alarm(world: World, **change: Any) -> dict[str, Any]:
    return {
        "AlarmName": name(world, "alarm"),
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": dimensions(world),
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 1,
        "Threshold": 0.05,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    } | change


def invoke(world: World, **change: Any) -> dict[str, Any]:
    body = change.pop("Body", b'{"inputs": "hello"}')
    return {"EndpointName": world.endpoint, "ContentType": "application/json", "Body": body} | change


def queued(world: World, **change: Any) -> dict[str, Any]:
    return {"EndpointName": world.queue, "InputLocation": "s3://contract/in"} | change


def container(**change: Any) -> dict[str, Any]:
    return {"Image": "echo:1", "Environment": {"A": "b"}} | change


ONE_SIZED = {"Type": "INSTANCE_COUNT", "Value": 1}
ROWS: list[Row] = [
    # models
    *sagemaker(
        "CreateModel",
        lambda w: {"ModelName": name(w, "m"), "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
        rule=lambda w: {"ModelName": w.model, "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
        shape=lambda w: {"ModelName": "-m-", "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
    ),
    *sagemaker("DescribeModel", lambda w: {"ModelName": w.model}, rule=lambda w: {"ModelName": "absent"}),
    *sagemaker("ListModels", lambda w: {"NameContains": "m", "MaxResults": 5}, shape=lambda w: {"MaxResults": 101}),
    *sagemaker("DeleteModel", lambda w: {"ModelName": w.deck.model()}, rule=lambda w: {"ModelName": "absent"}),
    # configurations
    *sagemaker(
        "CreateEndpointConfig",
        new_config,
        rule=lambda w: new_config(w, ModelName="absent"),
        shape=lambda w: new_config(w, InstanceType="ml.bogus.large"),
    ),
    *sagemaker(
        "DescribeEndpointConfig",
        lambda w: {"EndpointConfigName": w.config},
        rule=lambda w: {"EndpointConfigName": "absent"},
    ),
    *sagemaker("ListEndpointConfigs", lambda w: {"SortBy": "Name"}, shape=lambda w: {"SortBy": "Size"}),
    *sagemaker(
        "DeleteEndpointConfig",
        lambda w: {"EndpointConfigName": w.deck.config()},
        rule=lambda w: {"EndpointConfigName": "absent"},
    ),
    # endpoints
    *sagemaker(
        "CreateEndpoint",
        lambda w: {"EndpointName": w.made(name(w, "e")), "EndpointConfigName": w.config},
        rule=lambda w: {"EndpointName": w.endpoint, "EndpointConfigName": w.config},
        shape=lambda w: {"EndpointConfigName": w.config},
    ),
    *sagemaker("DescribeEndpoint", lambda w: {"EndpointName": w.endpoint}, rule=lambda w: {"EndpointName": "absent"}),
    Row("sagemaker", "DescribeEndpoint", baking),
    *sagemaker("ListEndpoints", lambda w: {"StatusEquals": "InService"}, shape=lambda w: {"StatusEquals": "Well"}),
    *sagemaker(
        "UpdateEndpoint",
        lambda w: update(w, DeploymentConfig=canary(50, wait=1, end=1)),
        rule=lambda w: update(w, DeploymentConfig=canary(60)),
        shape=lambda w: update(w, DeploymentConfig=canary(50, wait=9_999)),
    ),
    *sagemaker(
        "UpdateEndpointWeightsAndCapacities",
        weights,
        rule=lambda w: weights(w, VariantName="absent"),
        shape=lambda w: weights(w, DesiredWeight=-1.0),
    ),
    *sagemaker(
        "DeleteEndpoint",
        lambda w: {"EndpointName": w.deck.endpoint(w.deck.config(), keep=True)},
        rule=lambda w: {"EndpointName": "absent"},
    ),
    # tags
    *sagemaker(
        "AddTags",
        lambda w: {"ResourceArn": w.arn("model", w.model), "Tags": [{"Key": "k", "Value": "v"}]},
        rule=lambda w: {"ResourceArn": w.arn("model", "absent"), "Tags": [{"Key": "k", "Value": "v"}]},
        shape=lambda w: {"ResourceArn": w.arn("model", w.model), "Tags": [{"Key": "k" * 129, "Value": "v"}]},
    ),
    *sagemaker(
        "ListTags",
        lambda w: {"ResourceArn": w.arn("endpoint", w.endpoint)},
        rule=lambda w: {"ResourceArn": w.arn("endpoint", "absent")},
    ),
    *sagemaker(
        "DeleteTags",
        lambda w: {"ResourceArn": w.arn("model", w.model), "TagKeys": ["k"]},
        rule=lambda w: {"ResourceArn": w.arn("model", "absent"), "TagKeys": ["k"]},
    ),
    # metrics
    *cloudwatch(
        "PutMetricData",
        lambda w: {"Namespace": "own", "MetricData": [{"MetricName": "m", "Values": [1.0], "Unit": "Seconds"}]},
        ("InvalidParameterValue", 400, True, lambda w: {"Namespace": "AWS/own", "MetricData": [{"MetricName": "m"}]}),
        ("ValidationError", 400, False, lambda w: {"Namespace": "own", "MetricData": [{"Value": 1.0}]}),
    ),
    *cloudwatch(
        "GetMetricStatistics",
        lambda w: {"Namespace": "own", "MetricName": "m", "Period": 60, "Statistics": ["Sum"], **span(w)},
        ("MissingParameter", 400, True, lambda w: {"Namespace": "own", "MetricName": "m", "Period": 60, **span(w)}),
    ),
    *cloudwatch(
        "GetMetricData",
        query,
        ("InvalidParameterValue", 400, True, lambda w: query(w, EndTime=w.deck.now() - timedelta(days=1))),
        ("ValidationError", 400, False, lambda w: query(w, ScanBy="Random")),
    ),
    *cloudwatch(
        "ListMetrics",
        lambda w: {"Namespace": "AWS/SageMaker", "Dimensions": dimensions(w)},
        ("ValidationError", 400, False, lambda w: {"Namespace": ""}),
    ),
    # alarms
    *cloudwatch(
        "PutMetricAlarm",
        alarm,
        ("InvalidParameterCombination", 400, True, lambda w: alarm(w, DatapointsToAlarm=3)),
        ("ValidationError", 400, False, lambda w: alarm(w, ComparisonOperator="Near")),
    ),
    *cloudwatch(
        "DescribeAlarms",
        lambda w: {"AlarmNames": [w.alarm]},
        ("ValidationError", 400, False, lambda w: {"StateValue": "FINE"}),
    ),
    *cloudwatch(
        "SetAlarmState",
        lambda w: {"AlarmName": w.alarm, "StateValue": "OK", "StateReason": "contract"},
        ("ResourceNotFound", 404, True, lambda w: {"AlarmName": "absent", "StateValue": "OK", "StateReason": "no"}),
    ),
    *cloudwatch(
        "DeleteAlarms",
        lambda w: {"AlarmNames": [w.deck.alarm(w.endpoint, w.config)]},
        ("ResourceNotFound", 404, True, lambda w: {"AlarmNames": ["absent"]}),
    ),
    # requests
    *runtime(
        "InvokeEndpoint",
        lambda w: invoke(w, Accept="application/json", CustomAttributes="a", InferenceId="i", TargetVariant="main"),
        ("ValidationError", 400, True, lambda w: invoke(w, EndpointName="absent")),
        ("ValidationError", 400, False, lambda w: invoke(w, InferenceId="i" * 65)),
    ),
    *runtime(
        "InvokeEndpointWithResponseStream",
        lambda w: invoke(w, Body=b'{"stream": 5}', CustomAttributes="a", InferenceId="i"),
        ("ValidationError", 400, True, lambda w: invoke(w, EndpointName="absent")),
        ("ValidationError", 400, False, lambda w: invoke(w, SessionId="NEW_SESSION")),
    ),
    Row(RUNTIME, "InvokeEndpointAsync", lambda w: queued(w, InferenceId="i", RequestTTLSeconds=60), status=202),
    Row(RUNTIME, "InvokeEndpointAsync", lambda w: queued(w, EndpointName=w.endpoint), "ValidationError", 400),
    Row(RUNTIME, "InvokeEndpointAsync", lambda w: queued(w, RequestTTLSeconds=5), "ValidationError", 400, model=False),
]
