"""Release mode × instance type × count: what SageMaker's guardrails do not do, before they silently do something else.

https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.adapters.instances import Instance
from tasks.adapters.obstacles import Obstacle, refuse, warn
from tasks.adapters.sagemaker_limits import check_capacity
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan


def rollout(plan: ReleasePlan, where: Instance) -> Iterator[Obstacle]:
    """Whether the plan's mode can be had on these instances."""
    if where.inf1 and plan.mode in ("CANARY", "LINEAR", "ROLLING"):
        yield refuse(
            "inf1", "on Inf1 SageMaker falls back to all at once, without a bake, whatever the policy says",
            f"{plan.mode} on {plan.instance_type}", "Inf2, Trainium, CPU and GPU instances",
            "take an ml.inf2 instance, or set plan.mode to WEIGHTS, which needs no guardrails",
        )  # fmt: skip
    elif where.inf1 and (plan.mode == "ALL_AT_ONCE" or plan.mode == "SHADOW"):
        yield warn(
            "inf1", "on Inf1 SageMaker ends the old fleet without a bake", f"{plan.mode} on {plan.instance_type}",
            "no time in which an alarm takes it back", "take an ml.inf2 instance",
        )  # fmt: skip
    try:
        check_capacity(plan, plan.instances)
    except RefusedRequest as error:
        yield refuse("instances", error.cause, str(error.observed), str(error.limit), error.remedy)
