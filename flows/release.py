"""package → shift and bake, or try beside the old version, step by step → promoted, or restored."""

from __future__ import annotations

from prefect import flow

from tasks.approve import approval_of, refuse
from tasks.contracts import DatasetRef, ModelPackage, ModelRef, RegisteredModel, Rollout, Shift
from tasks.deploy import create_endpoint, endpoint_page, first_package, is_new, package, shift, tidy
from tasks.monitor import monitor
from tasks.plans import ReleasePlan
from tasks.pricing import costed
from tasks.record import record_pairs, record_release
from tasks.register import settle
from tasks.report import report_rollout
from tasks.restore import take_over
from tasks.scale import ready_to_scale, scale
from tasks.slots import alone_on
from tasks.trial import begin_trial, end_shadow, end_trial, judge_again, leave_other_trial, try_share
from tasks.watch import require_promoted, watch


@flow(name="release", flow_run_name="release-{registered.name}-v{registered.version}-{plan.mode}")
def release(
    registered: RegisteredModel, original: ModelRef, data: DatasetRef, plan: ReleasePlan = ReleasePlan()
) -> Rollout:
    """Move live traffic onto a registered version, and go back by itself when the judge or the alarms say so.

    Args:
        registered: The version to release.
        original: What it was made from; served first where the endpoint does not exist yet.
        data: Its data set; the held-out prompts are the rehearsal's traffic on the embedded stack.
        plan: How traffic moves.
    """
    with alone_on(plan.endpoint):
        ready_to_scale(plan)
        new = package(registered, plan)
        take_over(new, plan)
        if plan.original_first and is_new(plan):
            create_endpoint(first_package(original, plan), plan)
        leave_other_trial(new, plan)
        rollout = beside_the_old(new, plan, data) if plan.on_trial else guarded(new, plan, data)
        registered = settle(rollout)
        tidy(rollout)
        scaling = scale(plan)
    rollout = costed(rollout.model_copy(update={"registered": registered, "scaling": scaling}), plan)
    record_release(rollout, endpoint_page(plan.endpoint))
    report_rollout(rollout)
    if rollout.phase != "restored":
        monitor(plan)
    require_promoted(rollout)
    return rollout


def guarded(new: ModelPackage, plan: ReleasePlan, data: DatasetRef, asked: Shift | None = None) -> Rollout:
    """CANARY, LINEAR, ALL_AT_ONCE, ROLLING: SageMaker moves the traffic; alarms and the judge watch it. ``asked``: what
    has been asked for already.
    """
    approval = approval_of(new, plan)
    if approval and not approval.approved:
        return refuse(new, plan, approval)
    rollout = watch(asked or shift(new, plan), new, plan, data)
    return rollout.model_copy(update={"approval": approval})


def beside_the_old(new: ModelPackage, plan: ReleasePlan, data: DatasetRef) -> Rollout:
    """WEIGHTS, AB_TEST, SHADOW: both versions stand beside each other until the judge has a verdict."""
    asked = begin_trial(new, plan)
    if asked.trial_config is None:  # the first version, or this one serves already
        return guarded(new, plan, data, asked)
    steps = []
    for percent in plan.shares:
        steps.append(try_share(asked, plan, percent, data))
        if steps[-1].outcome != "go on":
            break
    if plan.mode == "SHADOW":
        record_pairs(asked, new)
    approval = approval_of(new, plan, tuple(steps))
    if approval and approval.approved and (worse := judge_again(asked, plan)):
        steps.append(worse)
    if plan.mode != "SHADOW" or steps[-1].outcome != "promoted" or (approval and not approval.approved):
        return end_trial(asked, new, plan, tuple(steps), approval)
    shifted = watch(shift(new, plan.after_shadow), new, plan.after_shadow, data)
    return end_shadow(shifted, asked, tuple(steps), plan).model_copy(update={"approval": approval})
