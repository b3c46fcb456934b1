"""Autoscaling around a release: ready before it, in place after it.

It is the endpoint's and not a version's: a release that was taken back leaves the plan's autoscaling too.
"""

from __future__ import annotations

from tasks.adapters.inference_kinds import check_kind
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.scaling_overview import describe_scaling
from tasks.cloud import sagemaker
from tasks.following import wait_until_serving
from tasks.plans import ReleasePlan
from tasks.retrying import network_task


@network_task("ready-to-scale-{plan.endpoint}")
def ready_to_scale(plan: ReleasePlan) -> None:
    """Refuse what SageMaker would refuse later, and wait while autoscaling itself changes the endpoint.

    Raises:
        RefusedRequest: the endpoint is of another kind of inference, the release would take autoscaling away unasked,
            or somebody else's policy tracks the metric.
    """
    make_ready(sagemaker(), plan)


def make_ready(cloud: SageMaker, plan: ReleasePlan) -> None:
    """As ``ready_to_scale``."""
    serving = cloud.serving(plan.endpoint)
    if serving is None:
        return
    check_kind(plan, serving.inference)
    cloud.scaling.require_kept(plan, serving.config)
    cloud.scaling.require_free(plan)
    if serving.is_resizing:
        wait_until_serving(cloud, plan.endpoint)


@network_task("scale-{plan.endpoint}")
def scale(plan: ReleasePlan) -> str:
    """Put the plan's autoscaling on the endpoint. Returns it in words; empty where the plan leaves it alone."""
    return put_scaling(sagemaker(), plan)


def put_scaling(cloud: SageMaker, plan: ReleasePlan) -> str:
    """As ``scale``."""
    if plan.scaling.kind == "none" or cloud.serving(plan.endpoint) is None:
        return ""
    cloud.scaling.apply(plan)
    return describe_scaling(plan)
