"""Watch a rollout until the endpoint has settled, and judge it by what the endpoint then really serves."""

from __future__ import annotations

import time

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import BadAnswer
from tasks.cloud import sagemaker
from tasks.contracts import Approval, DatasetRef, ModelPackage, Observation, Rollout, Shift
from tasks.errors import ReleaseRestored, ReleaseStuck
from tasks.findings import fired_alarms
from tasks.following import POLL_SECONDS, End, follow_rollout, terms_of, wait_until_serving
from tasks.plans import ReleasePlan
from tasks.rehearsal import rehearsal
from tasks.retrying import network_task
from tasks.serving.canary import Verdict
from tasks.workbench import Progress

PROBES = 3


@network_task("watch-{plan.endpoint}")
def watch(asked: Shift, new: ModelPackage, plan: ReleasePlan, data: DatasetRef) -> Rollout:
    """Watch until the endpoint has settled, then judge by its config's name and a real inference.

    Raises:
        ReleaseStuck: it has not settled in the time that its own plan allows, or it is in a state that we must not
        touch.
    """
    cloud = sagemaker()
    if _serves_already(asked, new, cloud):
        return describe("unchanged", asked, new, plan, cloud)
    with rehearsal(cloud, plan, data):
        terms = terms_of(cloud.history(plan.endpoint), plan)
        end = follow_rollout(cloud, asked, terms, Progress("release").show)
    return conclude(end, asked, new, plan, cloud)


def _serves_already(asked: Shift, new: ModelPackage, cloud: SageMaker) -> bool:
    """Only the champion has been judged. An endpoint that a dead or stuck run has left on a challenger is watched."""
    if asked.previous_config != asked.wanted_config or new.registered.alias != "champion":
        return False
    serving = cloud.serving(asked.endpoint)
    return serving is not None and serving.config == asked.wanted_config and serving.pending_config is None


def conclude(end: End, asked: Shift, new: ModelPackage, plan: ReleasePlan, cloud: SageMaker) -> Rollout:
    """Make the end true: a version that must go is taken back, one that may stay answers a real inference first."""
    previous, reason, seen = asked.previous_config, end.reason, end.seen
    if end.verdict is Verdict.PROMOTE:
        try:
            answer = probe_well(cloud, plan)
        except BadAnswer as error:
            if previous in (None, asked.wanted_config):
                raise
            reason = f"a real inference failed: {error.observed}"
        else:
            return describe("promoted" if previous else "created", asked, new, plan, cloud, seen, answer, reason)
    if previous and (end.verdict is Verdict.PROMOTE or end.settled_on_new):
        take_back(cloud, asked)
        if seen:
            seen = (*seen, seen[-1].model_copy(update={"message": reason}))
    return describe("restored", asked, new, plan, cloud, seen, reason=reason)


def take_back(cloud: SageMaker, asked: Shift) -> None:
    """All traffic to the previous config, whatever stands now. Returns when it serves.

    Raises:
        ReleaseStuck: the endpoint has failed.
    """
    wait_until_serving(cloud, asked.endpoint)
    previous = str(asked.previous_config)
    if cloud.serving_config(asked.endpoint) != previous:
        cloud.rollouts.restore(asked.endpoint, previous)
        wait_until_serving(cloud, asked.endpoint)
    if (serves := cloud.serving_config(asked.endpoint)) != previous:
        raise ReleaseStuck(
            f"endpoint {asked.endpoint} did not go back",
            observed=f"it serves {serves}", limit=previous,
            remedy="read its events and its instances' logs; the previous config is there: update the endpoint to it",
        )  # fmt: skip


def probe_well(cloud: SageMaker, plan: ReleasePlan) -> str:
    """One failure in three is what the plan's error rate may allow; three in a row are not."""
    for _ in range(PROBES - 1):
        try:
            return cloud.probe(plan.endpoint, plan.probe_prompt, plan.payload)
        except BadAnswer:
            time.sleep(POLL_SECONDS)
    return cloud.probe(plan.endpoint, plan.probe_prompt, plan.payload)


def answer_of(cloud: SageMaker, plan: ReleasePlan) -> tuple[str, bool]:
    """The answer of what serves, or what came instead, and whether it is one."""
    try:
        return probe_well(cloud, plan), True
    except BadAnswer as error:
        return f"no answer: {error.observed}", False


def require_promoted(rollout: Rollout) -> None:
    """Stop here when the release was restored.

    Raises:
        ReleaseRestored: with what the judge found, the alarms that fired and the share of errors that was seen.
    """
    if rollout.phase != "restored":
        return
    fired = fired_alarms(rollout)
    observed = [rollout.reason, _worst(rollout), f"alarms: {', '.join(fired)}" if fired else ""]
    raise ReleaseRestored(
        f"the new version was taken back; {rollout.config} serves all traffic of {rollout.endpoint}",
        observed="; ".join(part for part in observed if part),
        limit="the release plan's max_error_rate and max_latency_ms, and the margins of its judge",
        remedy="read the new fleet's logs, mend the version, and release again: nothing is left to undo",
    )


def _worst(rollout: Rollout) -> str:
    fleets = [fleet for seen in rollout.observations if (fleet := seen.green)]
    worst = max(fleets, key=lambda fleet: fleet.errors, default=None)
    if worst is None:
        last = rollout.observations[-1].message if rollout.observations else ""
        return "" if rollout.reason else last or "the new fleet failed"
    return f"{worst.errors} errors in {worst.requests} requests"


def describe(
    phase: str,
    asked: Shift,
    new: ModelPackage,
    plan: ReleasePlan,
    cloud: SageMaker,
    seen: tuple[Observation, ...] = (),
    answer: str | None = None,
    reason: str = "",
    approval: Approval | None = None,
) -> Rollout:
    """The rollout as it has ended, with a real inference."""
    if answer is None:
        # The release has ended as it has; that the old version fails too is for people to read, not to hide it.
        answer = answer_of(cloud, plan)[0]
    return Rollout.model_validate(
        {
            "endpoint": plan.endpoint,
            "phase": phase,
            "config": cloud.serving_config(plan.endpoint),
            "previous_config": asked.previous_config,
            "asked_config": asked.wanted_config,
            "trial_config": asked.trial_config,
            "registered": new.registered,
            "observations": seen,
            "probe": answer,
            "mode": plan.mode,
            "reason": reason,
            "approval": approval,
            "rehearsal": cloud.describe_rehearsal(plan.endpoint),
        }
    )
