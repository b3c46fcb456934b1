"""How endpoints scale, read from Application Auto Scaling, and how a plan would have it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_names import CHALLENGER, VARIANT
from tasks.adapters.scaling_requests import HELD, dimension_of, policies, where
from tasks.plans import ReleasePlan

SERVICE: Final = "application-autoscaling"
_LIMITS = {"DesiredInstanceCount": "instances", "DesiredProvisionedConcurrency": "provisioned concurrency"}


@dataclass(frozen=True)
class ScalingView:
    """How one variant scales now. ``last``: the newest activity in AWS's words, empty where there was none."""

    variant: str
    what: str
    low: int
    high: int
    policies: tuple[str, ...]
    scheduled: int
    held: bool
    last: str


def scalable_targets(aws: Connection, endpoint: str) -> list[dict[str, Any]]:
    """What is registered of this endpoint's two variants, as DescribeScalableTargets says it."""
    ids = [where(endpoint, variant)["ResourceId"] for variant in (VARIANT, CHALLENGER)]
    found = aws.pages(
        SERVICE, "DescribeScalableTargets", "ScalableTargets", ServiceNamespace="sagemaker", ResourceIds=ids
    )
    return list(found)


def known_parts(aws: Connection, operation: str, key: str, endpoint: str, variant: str) -> list[dict[str, Any]]:
    """What ``operation`` says that one variant has: its policies, or its scheduled actions."""
    resource = where(endpoint, variant)["ResourceId"]
    return list(aws.pages(SERVICE, operation, key, ServiceNamespace="sagemaker", ResourceId=resource))


def scaling_view(aws: Connection, endpoint: str) -> tuple[ScalingView, ...]:
    """How an endpoint scales, as a person wants to see it."""
    found = []
    for target in sorted(scalable_targets(aws, endpoint), key=lambda each: str(each["ResourceId"])):
        resource, variant = target["ResourceId"], target["ResourceId"].rpartition("/")[2]
        activities = aws.call(
            SERVICE, "DescribeScalingActivities", ServiceNamespace="sagemaker", ResourceId=resource, MaxResults=1
        )["ScalingActivities"]
        kinds = known_parts(aws, "DescribeScalingPolicies", "ScalingPolicies", endpoint, variant)
        scheduled = known_parts(aws, "DescribeScheduledActions", "ScheduledActions", endpoint, variant)
        found.append(
            ScalingView(
                variant=variant,
                what=_LIMITS[target["ScalableDimension"].rpartition(":")[2]],
                low=target["MinCapacity"],
                high=target["MaxCapacity"],
                policies=tuple(sorted(_words(policy) for policy in kinds)),
                scheduled=len(scheduled),
                held=target.get("SuspendedState") == HELD,
                last=f"{activities[0]['Description']} {activities[0]['StatusCode']}" if activities else "",
            )
        )
    return tuple(found)


def describe_scaling(plan: ReleasePlan) -> str:
    """What a plan's autoscaling is, in a few words; empty where the plan leaves it alone."""
    scaling = plan.scaling
    if scaling.kind == "off":
        return "off"
    if not scaling.acts:
        return ""
    what = _LIMITS[dimension_of(plan).rpartition(":")[2]]
    parts = [f"{scaling.min_instances} to {scaling.max_instances} {what}"]
    parts += sorted(_words(policy.request) for policy in policies(plan))
    return ", ".join(parts + ([f"{len(scaling.schedule)} scheduled"] if scaling.schedule else []))


def tracked(policy: Mapping[str, Any]) -> Any:
    """The metric that a target tracking policy follows; none of another kind of policy."""
    config = policy.get("TargetTrackingScalingPolicyConfiguration") or {}
    return config.get("PredefinedMetricSpecification") or config.get("CustomizedMetricSpecification")


def _words(policy: Mapping[str, Any]) -> str:
    config = policy.get("TargetTrackingScalingPolicyConfiguration")
    if config:
        spec = tracked(policy) or {}
        metric = spec.get("PredefinedMetricType") or spec.get("MetricName") or "metric math"
        return f"{metric} at {config['TargetValue']:g}"
    steps = policy.get("StepScalingPolicyConfiguration", {}).get("StepAdjustments", [])
    return f"steps {', '.join(format(step['ScalingAdjustment'], '+d') for step in steps)}"
