"""What Slimline asks of Application Auto Scaling, as plain values, and what AWS would refuse of it.

Names come from content: the same plan has the same policies and alarms. Sources: the API reference of Application Auto
Scaling; "Automatic scaling", "Autoscale an asynchronous endpoint" and "Automatically scale Provisioned Concurrency"
in the SageMaker developer guide. SageMaker has no simple policies (EC2 has): one step and an alarm are the same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.adapters.sagemaker_names import VARIANT, short_name
from tasks.adapters.sagemaker_requests import NAMESPACE

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import PutMetricAlarmInputTypeDef

    from tasks.plans import ReleasePlan
    from tasks.scaling_plan import Scaling

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
PROVISIONED = "sagemaker:variant:DesiredProvisionedConcurrency"
# Metric of the form: CloudWatch's name and statistic, the alarm's period in seconds, and the predefined type.
_METRICS = {
    "invocations": ("InvocationsPerInstance", "Sum", 60, "SageMakerVariantInvocationsPerInstance"),
    "concurrency": (
        "ConcurrentRequestsPerModel", "Average", 10, "SageMakerVariantConcurrentRequestsPerModelHighResolution",
    ),
    "backlog": ("ApproximateBacklogSizePerInstance", "Average", 60, None),
    "utilization": ("", "Average", 60, "SageMakerVariantProvisionedConcurrencyUtilization"),
}  # fmt: skip
OWN_METRIC = {"REAL_TIME": "invocations", "ASYNC": "backlog", "SERVERLESS": "utilization"}
RUNNING = {"DynamicScalingInSuspended": False, "DynamicScalingOutSuspended": False, "ScheduledScalingSuspended": False}
HELD = {"DynamicScalingInSuspended": True, "DynamicScalingOutSuspended": False, "ScheduledScalingSuspended": True}


@dataclass(frozen=True)
class Policy:
    """One policy, and of a step policy the alarm that runs it, less its AlarmActions: the policy's ARN is not known."""

    request: dict[str, Any]
    alarm: PutMetricAlarmInputTypeDef | None


def where(endpoint: str, variant: str = VARIANT, dimension: str = INSTANCES) -> dict[str, Any]:
    """What scales, as every request of Application Auto Scaling names it."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
        "ScalableDimension": dimension,
    }


def dimension_of(plan: ReleasePlan) -> str:
    return PROVISIONED if plan.inference == "SERVERLESS" else INSTANCES


def scalable_target(plan: ReleasePlan, variant: str = VARIANT, held: bool = False) -> dict[str, Any]:
    """``held``: beside another version in a trial, so it grows and does not shrink."""
    return {
        **where(plan.endpoint, variant, dimension_of(plan)),
        "MinCapacity": plan.scaling.min_instances,
        "MaxCapacity": plan.scaling.max_instances,
        "SuspendedState": HELD if held else RUNNING,
    }


def policies(plan: ReleasePlan, variant: str = VARIANT) -> list[Policy]:
    """The plan's policies on one variant."""
    scaling = plan.scaling
    found = []
    if scaling.kind == "target_tracking":
        found.append(_tracking(plan, variant))
        if scaling.min_instances == 0:  # tracking alone starts no instance before the backlog is beyond its target
            found.append(_waking(plan, variant))
    elif scaling.kind in ("step", "simple"):
        found.append(_stepping(plan, variant, "out"))
        if scaling.scale_in_below:
            found.append(_stepping(plan, variant, "in"))
    return found


def scheduled_actions(plan: ReleasePlan) -> list[dict[str, Any]]:
    """The plan's schedule, of the endpoint's own variant."""
    found = []
    for each in plan.scaling.schedule if plan.scaling.acts else ():
        content = {
            "Schedule": each.schedule,
            "Timezone": each.timezone,
            "ScalableTargetAction": {"MinCapacity": each.min_instances, "MaxCapacity": each.max_instances},
        }
        name = scaling_name(plan.endpoint, [VARIANT, content])
        found.append({**where(plan.endpoint, VARIANT, dimension_of(plan)), "ScheduledActionName": name, **content})
    return found


def scaling_name(endpoint: str, content: list[object]) -> str:
    """Of a policy, an action or an alarm. ``sagemaker_names.is_name_of`` knows it again."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return f"{short_name(endpoint)}-scaling-{digest}"


def metric_of(plan: ReleasePlan) -> str:
    """The form's metric, with ``auto`` made what this kind of inference has."""
    return OWN_METRIC[plan.inference] if plan.scaling.metric == "auto" else plan.scaling.metric


def _policy(plan: ReleasePlan, variant: str, kind: str, config: dict[str, Any], alarm: Any) -> Policy:
    name = scaling_name(plan.endpoint, [variant, kind, config, alarm])
    request = {
        **where(plan.endpoint, variant, dimension_of(plan)),
        "PolicyName": name,
        "PolicyType": kind,
        f"{kind}PolicyConfiguration": config,
    }
    if alarm is not None:
        alarm = {"AlarmName": name, **alarm}
    return Policy(request, alarm)


def _tracking(plan: ReleasePlan, variant: str) -> Policy:
    scaling, metric = plan.scaling, metric_of(plan)
    name, statistic, _, predefined = _METRICS[metric]
    spec: dict[str, Any]
    if predefined:
        spec = {"PredefinedMetricSpecification": {"PredefinedMetricType": predefined}}
    else:
        custom = {"MetricName": name, "Namespace": NAMESPACE, "Statistic": statistic}
        spec = {"CustomizedMetricSpecification": custom | {"Dimensions": _dimensions(plan.endpoint, None)}}
    config = {
        "TargetValue": scaling.target,
        **spec,
        "ScaleOutCooldown": scaling.scale_out_cooldown,
        "ScaleInCooldown": scaling.scale_in_cooldown,
    }
    return _policy(plan, variant, "TargetTrackingScaling", config, None)


def _stepping(plan: ReleasePlan, variant: str, way: str) -> Policy:
    scaling, out = plan.scaling, way == "out"
    metric = metric_of(plan)
    name, statistic, period, _ = _METRICS[metric]
    steps = _steps(scaling) if out else [{"MetricIntervalUpperBound": 0.0, "ScalingAdjustment": -1}]
    config = {
        "AdjustmentType": "ChangeInCapacity",
        "StepAdjustments": steps,
        "MetricAggregationType": "Average",
        "Cooldown": scaling.scale_out_cooldown if out else scaling.scale_in_cooldown,
    }
    alarm = {
        "AlarmDescription": f"Slimline, autoscaling of {plan.endpoint}: scale {way}",
        "Namespace": NAMESPACE,
        "MetricName": name,
        "Dimensions": _dimensions(plan.endpoint, None if metric == "backlog" else variant),
        "Statistic": statistic,
        "Period": period if out else 60,
        "EvaluationPeriods": 3 if out else 15,  # as target tracking's own alarms: slow to take instances away
        "Threshold": scaling.target if out else scaling.scale_in_below,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold" if out else "LessThanThreshold",
        "TreatMissingData": "notBreaching",
    }
    return _policy(plan, variant, "StepScaling", config, alarm)


def _waking(plan: ReleasePlan, variant: str) -> Policy:
    """From no instance to the first one: "Optional: Define a scaling policy that scales up from zero"."""
    config = {
        "AdjustmentType": "ChangeInCapacity",
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        "MetricAggregationType": "Average",
        "Cooldown": plan.scaling.scale_out_cooldown,
    }
    alarm = {
        "AlarmDescription": f"Slimline, autoscaling of {plan.endpoint}: requests wait and there is no instance",
        "Namespace": NAMESPACE,
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": _dimensions(plan.endpoint, None),
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
    }
    return _policy(plan, variant, "StepScaling", config, alarm)


def _steps(scaling: Scaling) -> list[dict[str, float | int]]:
    rows = scaling.steps if scaling.kind == "step" else scaling.steps[:1]
    found: list[dict[str, float | int]] = [
        {"MetricIntervalLowerBound": row.above, "ScalingAdjustment": row.add} for row in rows
    ]
    for here, following in pairwise(found):
        here["MetricIntervalUpperBound"] = following["MetricIntervalLowerBound"]
    return found


def _dimensions(endpoint: str, variant: str | None) -> list[dict[str, str]]:
    """The queue of an asynchronous endpoint is the endpoint's, everything else a variant's."""
    found = [{"Name": "EndpointName", "Value": endpoint}]
    return found if variant is None else [*found, {"Name": "VariantName", "Value": variant}]
