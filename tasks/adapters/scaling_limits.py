"""What AWS refuses of a plan's autoscaling, said before anything is made.

Sources: "Configure model auto scaling with the console" (no burstable instances, at least one), "Autoscale an
asynchronous endpoint" (zero instances), "Automatically scale Provisioned Concurrency for a serverless endpoint" (in the
SageMaker developer guide), and the quotas and cron expressions of Application Auto Scaling's user guide.
"""

from __future__ import annotations

import re
from itertools import pairwise
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.scaling_requests import OWN_METRIC, metric_of, policies, scalable_target, scheduled_actions
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan
from tasks.scaling_plan import ScheduledBounds

_MOST_STEPS = 20  # of one step policy
_BURSTABLE = re.compile(r"ml\.t\d")
_EXPRESSION = re.compile(
    r"cron\((\S+ ){5}\S+\)|rate\(\d+ (minutes?|hours?|days?)\)|at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)"
)
_ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:0"  # in the place of the one that AWS will give


def check_scaling(plan: ReleasePlan) -> None:
    """Every rule across fields, then every request against the service model.

    Raises:
        RefusedRequest: with the field, what it holds, its limit, and what to change.
    """
    scaling = plan.scaling
    if not scaling.acts:
        if scaling.schedule:
            raise RefusedRequest(
                "a schedule without autoscaling would set nobody's bounds",
                observed=f"plan.scaling.kind = {scaling.kind}, {len(scaling.schedule)} in plan.scaling.schedule",
                limit="kind scheduled, target_tracking, step or simple", remedy="set plan.scaling.kind to scheduled",
            )  # fmt: skip
        return
    _check_kind(plan)
    _check_bounds(plan)
    _check_values(plan)
    for each in scaling.schedule:
        _check_schedule(each, plan)
    check_request("application-autoscaling", "RegisterScalableTarget", scalable_target(plan))
    for policy in policies(plan):
        check_request("application-autoscaling", "PutScalingPolicy", policy.request)
        if policy.alarm:
            check_request("cloudwatch", "PutMetricAlarm", {**policy.alarm, "AlarmActions": [_ARN]})
    for action in scheduled_actions(plan):
        check_request("application-autoscaling", "PutScheduledAction", action)


def _check_kind(plan: ReleasePlan) -> None:
    scaling = plan.scaling
    if plan.inference == "SERVERLESS":
        if not plan.serverless.provisioned:
            raise RefusedRequest(
                "a serverless endpoint without provisioned concurrency scales by itself and has nothing to register",
                observed=f"plan.scaling.kind = {scaling.kind}, plan.serverless.provisioned = 0",
                limit="kind none, or provisioned concurrency",
                remedy="set plan.scaling.kind to none, or plan.serverless.provisioned to 1 or more",
            )
        if scaling.kind in ("step", "simple"):
            raise RefusedRequest(
                "provisioned concurrency follows a target or a schedule",
                observed=f"plan.scaling.kind = {scaling.kind}",
                limit="target_tracking or scheduled", remedy="choose one of those",
            )  # fmt: skip
    elif _BURSTABLE.match(plan.instance_type):
        raise RefusedRequest(
            "SageMaker does not autoscale burstable instances", observed=f"plan.instance_type = {plan.instance_type}",
            limit="an instance type that is not ml.t*",
            remedy="choose another instance type, or set plan.scaling.kind to none",
        )  # fmt: skip
    metric = metric_of(plan)
    allowed = {"REAL_TIME": ("invocations", "concurrency")}.get(plan.inference, (OWN_METRIC[plan.inference],))
    if scaling.kind != "scheduled" and metric not in allowed:
        raise RefusedRequest(
            f"{plan.inference} endpoints have no such metric for autoscaling",
            observed=f"plan.scaling.metric = {metric}", limit=" or ".join(allowed),
            remedy="set plan.scaling.metric to auto",
        )  # fmt: skip


def _check_bounds(plan: ReleasePlan) -> None:
    scaling, serverless = plan.scaling, plan.inference == "SERVERLESS"
    low, high = scaling.min_instances, scaling.max_instances
    count, field = (
        (plan.serverless.provisioned, "plan.serverless.provisioned")
        if serverless
        else (plan.instances, "plan.instances")
    )
    if not low <= count <= high:
        raise RefusedRequest(
            "autoscaling would move the fleet as soon as it serves",
            observed=f"{field} = {count}, autoscaling from {low} to {high}",
            limit="min_instances ≤ instances ≤ max_instances",
            remedy=f"set {field} between plan.scaling.min_instances and plan.scaling.max_instances",
        )
    if serverless and high > plan.serverless.max_concurrency:
        raise RefusedRequest(
            "provisioned concurrency is a part of the endpoint's concurrency",
            observed=f"plan.scaling.max_instances = {high}",
            limit=f"plan.serverless.max_concurrency = {plan.serverless.max_concurrency}",
            remedy="raise plan.serverless.max_concurrency, or lower plan.scaling.max_instances",
        )
    if low == 0 and (plan.inference != "ASYNC" or scaling.kind != "target_tracking"):
        raise RefusedRequest(
            "only asynchronous endpoints scale in to no instance at all, for their requests can wait",
            observed=f"plan.scaling.min_instances = 0, plan.inference = {plan.inference}, kind = {scaling.kind}",
            limit="at least 1; 0 with ASYNC and target_tracking", remedy="set plan.scaling.min_instances to 1",
        )  # fmt: skip


def _check_values(plan: ReleasePlan) -> None:
    scaling = plan.scaling
    if scaling.kind == "scheduled" and not scaling.schedule:
        raise RefusedRequest(
            "a schedule has no times", observed="plan.scaling.schedule = []", limit="at least one entry",
            remedy="add one, such as cron(0 8 ? * MON-FRI *) with its bounds",
        )  # fmt: skip
    if metric_of(plan) == "utilization" and scaling.kind == "target_tracking" and scaling.target > 1:
        raise RefusedRequest(
            "utilization is a share", observed=f"plan.scaling.target = {scaling.target:g}", limit="above 0, at most 1",
            remedy="set it to 0.7, say",
        )  # fmt: skip
    if scaling.kind not in ("step", "simple"):
        return
    starts = [row.above for row in scaling.steps]
    if not 1 <= len(starts) <= _MOST_STEPS or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        raise RefusedRequest(
            "the step table leaves a gap or has an overlap", observed=f"rows that begin at {starts}",
            limit=f"1 to {_MOST_STEPS} rows, the first at 0, each above the one before",
            remedy="mend plan.scaling.steps",
        )  # fmt: skip
    if scaling.scale_in_below >= scaling.target:
        raise RefusedRequest(
            "instances would be added and taken away at the same load",
            observed=f"scale_in_below = {scaling.scale_in_below:g}, target = {scaling.target:g}",
            limit="scale_in_below less than target",
            remedy="lower plan.scaling.scale_in_below, to half of the target, say",
        )  # fmt: skip


def _check_schedule(each: ScheduledBounds, plan: ReleasePlan) -> None:
    if not _EXPRESSION.fullmatch(each.schedule):
        raise RefusedRequest(
            "the schedule is no expression of Application Auto Scaling", observed=each.schedule,
            limit="cron of six fields, rate(5 minutes), or at(yyyy-mm-ddThh:mm:ss)",
            remedy="mend it, such as cron(0 8 ? * MON-FRI *)",
        )  # fmt: skip
    least = 0 if plan.inference == "ASYNC" else 1
    if not least <= each.min_instances <= each.max_instances:
        raise RefusedRequest(
            "the schedule's bounds hold no count", observed=f"{each.min_instances} to {each.max_instances}",
            limit=f"{least} ≤ min_instances ≤ max_instances", remedy=f"mend the bounds of {each.schedule}",
        )  # fmt: skip
    try:
        ZoneInfo(each.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise RefusedRequest(
            "the schedule's time zone is not known", observed=each.timezone, limit="an IANA name",
            remedy="set it to Etc/UTC or Europe/Berlin, say",
        ) from error  # fmt: skip
