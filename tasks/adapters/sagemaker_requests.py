"""What Slimline asks of SageMaker and CloudWatch, as plain values: no calls, no clock, no environment.

API: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_UpdateEndpoint.html and
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.adapters.inference_kinds import capacity, queue
from tasks.adapters.protection import UNPROTECTED, Protection
from tasks.adapters.sagemaker_names import VARIANT, content_name, tags_of
from tasks.adapters.serving_content import container, network_isolation, variant_extras
from tasks.contracts import ModelPackage
from tasks.plans import ReleasePlan

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef, PutMetricAlarmInputTypeDef
    from mypy_boto3_sagemaker.type_defs import (
        AutoRollbackConfigTypeDef,
        CreateEndpointConfigInputTypeDef,
        CreateEndpointInputTypeDef,
        CreateModelInputTypeDef,
        DataCaptureConfigUnionTypeDef,
        DeploymentConfigUnionTypeDef,
        TagTypeDef,
        TrafficRoutingConfigTypeDef,
        UpdateEndpointInputTypeDef,
    )

NAMESPACE = "AWS/SageMaker"
JUDGE_NAMESPACE = "Slimline/Releases"
ALARM_PERIOD = 60  # seconds; SageMaker publishes its metrics once a minute
MAX_EXECUTION = 28_800  # seconds; SageMaker's limit of one deployment
STARTING = 3600  # seconds for instances to start and weights to load
FAULT_VARIABLE = "SLIMLINE_FAULT_ERROR_SHARE"


@dataclass(frozen=True)
class Blueprint:
    """The three requests that make one fleet, and the name that its model and config share."""

    name: str
    model: CreateModelInputTypeDef
    config: CreateEndpointConfigInputTypeDef
    tags: list[TagTypeDef]


def blueprint(
    package: ModelPackage,
    plan: ReleasePlan,
    role_arn: str,
    environment: Mapping[str, str],
    run: str = "",
    bucket: str = "",
    protection: Protection = UNPROTECTED,
) -> Blueprint:
    """Everything but the endpoint. ``environment`` is for the container; the plan's rehearsed fault is added to it.
    ``run`` is the flow run that asks; requests that the plan's monitoring keeps go to ``bucket``.

    The name is made of the endpoint, the version and a digest of both requests; tags are left out, they change nothing.
    """
    faulty = plan.rehearsal.error_share
    variables = dict(environment) | ({FAULT_VARIABLE: str(faulty)} if faulty else {})
    content = {
        "PrimaryContainer": container(package, plan, variables),
        "ExecutionRoleArn": role_arn,
        "EnableNetworkIsolation": network_isolation(package),
        **protection.of_model(),
    }
    encrypted = protection.of_config(plan.instance_type)
    variant = {
        "VariantName": VARIANT,
        **capacity(plan),
        "InitialVariantWeight": 1.0,
        **variant_extras(package, plan),
    }
    extra = queue(plan, package.s3_uri.split("/")[2])
    percent = plan.monitoring.capture_percent
    capture: Any = {}
    if percent:
        capture = {"DataCaptureConfig": {**capture_config(percent, bucket), **protection.of_capture()}}
    made_of: list[object] = [package.digest, content, variant, *filter(None, (extra, capture, encrypted))]
    name = content_name(plan.endpoint, package.registered.version, made_of)
    tags = _tags(package, plan, run)
    model: Any = {"ModelName": name, **content, "Tags": tags}
    config: Any = {
        "EndpointConfigName": name,
        "ProductionVariants": [{**variant, "ModelName": name}],
        **extra,
        **encrypted,
        "Tags": tags,
        **capture,
    }
    return Blueprint(name, model, config, tags)


def capture_config(percent: int, bucket: str) -> DataCaptureConfigUnionTypeDef:
    """Requests and answers, as text, of ``percent`` of the requests."""
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": percent,
        "DestinationS3Uri": f"s3://{bucket}/captures",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }


def create_endpoint(endpoint: str, made: Blueprint) -> CreateEndpointInputTypeDef:
    return {"EndpointName": endpoint, "EndpointConfigName": made.name, "Tags": made.tags}


def update_endpoint(endpoint: str, config: str, plan: ReleasePlan, *, retain: bool) -> UpdateEndpointInputTypeDef:
    """Blue/green by ``plan``. ``retain`` keeps the instance counts that autoscaling has reached.

    Guardrails are for endpoints with instances: of a serverless one there is no DeploymentConfig.
    """
    if plan.inference == "SERVERLESS":
        return {"EndpointName": endpoint, "EndpointConfigName": config}
    return {
        "EndpointName": endpoint,
        "EndpointConfigName": config,
        "RetainAllVariantProperties": retain,
        "DeploymentConfig": deployment_config(config, plan),
    }


def deployment_config(config: str, plan: ReleasePlan) -> DeploymentConfigUnionTypeDef:
    rollback: AutoRollbackConfigTypeDef = {"Alarms": [{"AlarmName": name} for name in alarm_names(config)]}
    if plan.mode == "ROLLING":
        return {
            "RollingUpdatePolicy": {
                "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": plan.step_percent},
                "WaitIntervalInSeconds": plan.bake_seconds,
                "MaximumExecutionTimeoutInSeconds": execution_timeout(plan),
            },
            "AutoRollbackConfiguration": rollback,
        }
    if plan.mode not in ("CANARY", "LINEAR", "ALL_AT_ONCE"):
        raise ValueError(f"{plan.mode} is no deployment of SageMaker's: it moves weights or copies requests")
    routing: TrafficRoutingConfigTypeDef = {"Type": plan.mode, "WaitIntervalInSeconds": plan.bake_seconds}
    if plan.mode == "CANARY":
        routing["CanarySize"] = {"Type": "CAPACITY_PERCENT", "Value": plan.step_percent}
    elif plan.mode == "LINEAR":
        routing["LinearStepSize"] = {"Type": "CAPACITY_PERCENT", "Value": plan.step_percent}
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            # After all traffic has moved the old fleet stays this long: for all-at-once it is the only bake.
            "TerminationWaitInSeconds": plan.bake_seconds,
            "MaximumExecutionTimeoutInSeconds": execution_timeout(plan),
        },
        "AutoRollbackConfiguration": rollback,
    }


def bakes(plan: ReleasePlan) -> int:
    """How many times the plan waits: once a step, and once before the old fleet ends."""
    steps = -(-100 // plan.step_percent)
    waits = {"CANARY": 2, "LINEAR": steps, "ROLLING": steps, "WEIGHTS": len(plan.shares)}
    return waits.get(plan.mode, 1)


def execution_timeout(plan: ReleasePlan) -> int:
    """Seconds: every bake, and the time that instances need to start and to load weights."""
    return bakes(plan) * plan.bake_seconds + STARTING


def alarm_names(config: str) -> tuple[str, str, str]:
    return f"{config}-errors", f"{config}-latency", judge_alarm(config)


def judge_alarm(config: str) -> str:
    """The alarm by which the judge takes a rollout back."""
    return f"{config}-judge"


def dimensions(endpoint: str, config: str | None, variant: str = VARIANT) -> list[DimensionTypeDef]:
    """The metrics of one fleet. Without the config's name an alarm sees both, and a bad canary hides in the average.

    Two variants of one config need no config's name. With it, metrics begin when a new fleet gets traffic and last
    after the deployment (https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html).
    """
    found: list[DimensionTypeDef] = [
        {"Name": "EndpointName", "Value": endpoint},
        {"Name": "VariantName", "Value": variant},
    ]
    return [*found, {"Name": "EndpointConfigName", "Value": config}] if config else found


def alarms(
    endpoint: str, config: str, plan: ReleasePlan, tags: Sequence[TagTypeDef] = ()
) -> list[PutMetricAlarmInputTypeDef]:
    """Two alarms on the new fleet only, its share of 5xx answers and its average ModelLatency (microseconds), and the
    one that only the judge sets.
    """
    errors, latency, _ = alarm_names(config)
    made = [
        _alarm(errors, endpoint, config, "Invocation5XXErrors", plan.max_error_rate, "share of 5xx answers"),
        _alarm(latency, endpoint, config, "ModelLatency", plan.max_latency_ms * 1000, "average microseconds"),
        _judge_alarm(endpoint, config),
    ]
    for alarm in made:
        alarm["Tags"] = list(tags)
    return made


def _judge_alarm(endpoint: str, config: str) -> PutMetricAlarmInputTypeDef:
    """Its metric is never written, so the only state it ever gets is the one that SetAlarmState gives it."""
    return {
        "AlarmName": judge_alarm(config),
        "AlarmDescription": f"Slimline release of {endpoint}: ALARM when the judge takes {config} back",
        "Namespace": JUDGE_NAMESPACE,
        "MetricName": "Restore",
        "Dimensions": dimensions(endpoint, config),
        "Statistic": "Maximum",
        "Period": ALARM_PERIOD,
        "EvaluationPeriods": 1,
        "Threshold": 0.5,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "ignore",
    }


def _alarm(
    name: str, endpoint: str, config: str, metric: str, threshold: float, unit: str
) -> PutMetricAlarmInputTypeDef:
    return {
        "AlarmName": name,
        "AlarmDescription": f"Slimline release of {endpoint}: {metric}, {unit}, of the new fleet {config}",
        "Namespace": NAMESPACE,
        "MetricName": metric,
        "Dimensions": dimensions(endpoint, config),
        "Statistic": "Average",  # the error metrics are 0 or 1 a request, so their average is the rate
        "Period": ALARM_PERIOD,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",  # a minute without requests is no error; the release's judge waits for data
    }


def _tags(package: ModelPackage, plan: ReleasePlan, run: str) -> list[TagTypeDef]:
    registered = package.registered
    values = {
        "slimline:model": registered.name,
        "slimline:version": registered.version,
        "slimline:digest": package.digest,
        "slimline:compressed-digest": registered.model.digest,
        "slimline:run": registered.run_id,
        "slimline:endpoint": plan.endpoint,
        "slimline:flow-run": run,
    }
    return tags_of(values)
