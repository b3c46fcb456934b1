"""package → shift and bake, step by step → promoted, or restored."""

from __future__ import annotations

from prefect import flow

from tasks.contracts import DatasetRef, ModelRef, RegisteredModel, Rollout
from tasks.deploy import create_endpoint, endpoint_page, is_new, package, shift, tidy, unregistered
from tasks.recipes import ReleasePlan
from tasks.record import record_release
from tasks.register import settle
from tasks.restore import take_over
from tasks.slots import alone_on
from tasks.watch import require_promoted, watch


@flow(name="release", flow_run_name="release-{registered.name}-v{registered.version}-{plan.mode}")
def release(
    registered: RegisteredModel, original: ModelRef, data: DatasetRef, plan: ReleasePlan = ReleasePlan()
) -> Rollout:
    """Move live traffic onto a registered version, and go back by itself when the alarms say so.

    Args:
        registered: The version to release.
        original: What it was made from; served first where the endpoint does not exist yet.
        data: Its data set; the held-out prompts are the rehearsal's traffic on the embedded stack.
        plan: How traffic moves.
    """
    with alone_on(plan.endpoint):
        new = package(registered, plan)
        take_over(new, plan)
        if plan.original_first and is_new(plan):
            create_endpoint(package(unregistered(original), plan.model_copy(update={"serve": "torch"})), plan)
        rollout = watch(shift(new, plan), new, plan, data)
        registered = settle(rollout)
        tidy(rollout)
    rollout = rollout.model_copy(update={"registered": registered})
    record_release(rollout, endpoint_page(plan.endpoint))
    require_promoted(rollout)
    return rollout
