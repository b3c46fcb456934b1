"""Try a version beside the old one: begin, weigh and watch step by step, then promote or take back.

Each task may be asked again: it looks where the endpoint stands first, and does what is missing.
"""

from __future__ import annotations

from tasks.adapters.sagemaker import SageMaker
from tasks.cloud import sagemaker
from tasks.contracts import Approval, DatasetRef, ModelPackage, Observation, Rollout, Shift, TrialStep
from tasks.deploy import asked_before
from tasks.following import End, follow_trial, not_settled, second_look, wait_until_serving
from tasks.plans import ReleasePlan
from tasks.rehearsal import rehearsal
from tasks.retrying import network_task
from tasks.serving.canary import Verdict
from tasks.watch import conclude, describe, take_back
from tasks.workbench import Progress


@network_task("begin-{plan.mode}")
def begin_trial(new: ModelPackage, plan: ReleasePlan) -> Shift:
    """Ask for the config with both versions. Finds the trial that an earlier run of this release has left."""
    return start_trial(sagemaker(), new, plan)


def start_trial(cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> Shift:
    """As ``begin_trial``."""
    endpoint, wanted = plan.endpoint, cloud.config_name(new, plan)
    serving, since = cloud.serving(endpoint), cloud.now()
    if serving is None:
        cloud.rollouts.create(endpoint, new, plan)
        return Shift(endpoint=endpoint, wanted_config=wanted, previous_config=None, since=since)
    if serving.status == "Creating" or serving.is_resizing:
        wait_until_serving(cloud, endpoint)
    # Under way to the trial, or from it, the pending config is one of the two.
    stands = cloud.trials.read(serving.pending_config) or cloud.trials.read(serving.config)
    if stands is None and wanted in (serving.pending_config, serving.config):
        return asked_before(cloud, endpoint, wanted, serving.config)
    if stands is None:
        stands = cloud.rollouts.begin_trial(endpoint, new, plan)
    if stands.wanted != wanted:
        return Shift(endpoint=endpoint, wanted_config=wanted, previous_config=serving.config, since=since)
    return Shift(
        endpoint=endpoint,
        wanted_config=wanted,
        previous_config=stands.previous,
        trial_config=stands.config,
        since=stands.since,
    )


@network_task("leave-trial-{plan.endpoint}")
def leave_other_trial(new: ModelPackage, plan: ReleasePlan) -> None:
    """A trial of another version, which a dead run has left, ends before this release begins."""
    end_other_trial(sagemaker(), new, plan)


def end_other_trial(cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> None:
    """As ``leave_other_trial``."""
    serving = cloud.serving(plan.endpoint)
    if serving is None:
        return
    stands = cloud.trials.read(serving.pending_config) or cloud.trials.read(serving.config)
    if stands is None or (stands.wanted == cloud.config_name(new, plan) and plan.on_trial):
        return
    wait_until_serving(cloud, plan.endpoint)
    cloud.trials.finish(plan.endpoint, stands.previous, stands.previous)
    wait_until_serving(cloud, plan.endpoint)


@network_task("try-{percent}%")
def try_share(asked: Shift, plan: ReleasePlan, percent: int, data: DatasetRef) -> TrialStep:
    """Give the new version this share of the traffic and watch until the step has an end. A share that was reached
    already is not taken back.
    """
    cloud = sagemaker()
    with rehearsal(cloud, plan, data):
        return follow_trial(cloud, asked, plan, percent, Progress(f"trial-{percent}").show)


@network_task("judge-again-{plan.endpoint}")
def judge_again(asked: Shift, plan: ReleasePlan) -> TrialStep | None:
    """After a person's yes, which may have taken days: the step that ends the trial where the judge by now says that
    the version is worse, or the trial is over; else none.
    """
    return second_look(sagemaker(), asked, plan)


@network_task("end-trial-{plan.endpoint}")
def end_trial(
    asked: Shift, new: ModelPackage, plan: ReleasePlan, steps: tuple[TrialStep, ...], approval: Approval | None
) -> Rollout:
    """From the trial to the new version's own config, or back to the previous one; a real inference has the last
    word.

    Raises:
        ReleaseStuck: the plan says to leave an undecided trial as it is, or the endpoint has failed.
    """
    return finish_trial(sagemaker(), asked, new, plan, steps, approval)


def finish_trial(
    cloud: SageMaker,
    asked: Shift,
    new: ModelPackage,
    plan: ReleasePlan,
    steps: tuple[TrialStep, ...],
    approval: Approval | None,
) -> Rollout:
    """As ``end_trial``."""
    last, seen = steps[-1], observations(steps)
    if last.outcome == "undecided" and plan.judge.undecided == "stuck":
        raise not_settled(list(seen), plan)
    promotes = last.outcome == "promoted" and (approval is None or approval.approved)
    reason = last.reason if approval is None or approval.approved else f"not approved: {approval.reason}"
    if not promotes:
        take_back(cloud, asked)
        rollout = describe("restored", asked, new, plan, cloud, seen, reason=reason)
    else:
        wait_until_serving(cloud, plan.endpoint)
        cloud.scaling.level(plan.endpoint, cloud.trials.standing(plan.endpoint).instances)
        wait_until_serving(cloud, plan.endpoint)
        cloud.rollouts.finish_trial(asked)
        wait_until_serving(cloud, plan.endpoint)
        there = cloud.serving_config(plan.endpoint) == asked.wanted_config
        verdict = Verdict.PROMOTE if there else Verdict.RESTORE
        reason = reason if there else "the new version's own fleet did not start"
        rollout = conclude(End(verdict, reason, seen, settled_on_new=True), asked, new, plan, cloud)
    return rollout.model_copy(update={"approval": approval})


def observations(steps: tuple[TrialStep, ...]) -> tuple[Observation, ...]:
    return tuple(seen for step in steps for seen in step.observations)


@network_task("end-shadow-{plan.endpoint}")
def end_shadow(shifted: Rollout, asked: Shift, steps: tuple[TrialStep, ...], plan: ReleasePlan) -> Rollout:
    """The guarded shift that followed a shadow, as the end of the whole release. Where it went back to the shadow's
    config, the previous one comes back.
    """
    return finish_shadow(sagemaker(), shifted, asked, steps, plan)


def finish_shadow(
    cloud: SageMaker, shifted: Rollout, asked: Shift, steps: tuple[TrialStep, ...], plan: ReleasePlan
) -> Rollout:
    """As ``end_shadow``."""
    if shifted.phase == "restored":
        take_back(cloud, asked)
    seen = observations(steps)
    begun = seen[-1].at if seen else 0.0
    later = (each.model_copy(update={"at": begun + each.at}) for each in shifted.observations)
    return shifted.model_copy(
        update={
            "config": cloud.serving_config(plan.endpoint),
            "previous_config": asked.previous_config,
            "trial_config": asked.trial_config,
            "mode": plan.mode,
            "observations": (*seen, *later),
        }
    )
