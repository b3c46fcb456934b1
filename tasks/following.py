"""Follow a release look by look until it has an end: what the endpoint says, what the judge says, what is done then.

Everything is decided from what SageMaker and CloudWatch say now, so it may begin anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_history import History
from tasks.adapters.sagemaker_metrics import Look
from tasks.adapters.sagemaker_names import CHALLENGER
from tasks.adapters.sagemaker_trials import Standing
from tasks.bench import LOOK_SECONDS, Bench
from tasks.contracts import FleetShare, Observation, Shift, TrialStep
from tasks.errors import ReleaseStuck
from tasks.plans import ReleasePlan
from tasks.serving.canary import MOVING, Verdict, judge_release
from tasks.serving.trial import Move, Names, Sight, next_move

POLL_SECONDS = 2.0
EXTRA_SECONDS = 3600.0  # allowed beside the baking: instances start, weights load
LEAST_WALL_SECONDS = 900.0  # a rehearsal's clock runs fast, but loading weights does not

Show = Callable[[float, str], None]  # share of the traffic 0–1, and a sentence


@dataclass(frozen=True)
class End:
    """How a guarded rollout has ended. ``settled_on_new``: whether the endpoint serves the new version now."""

    verdict: Verdict
    reason: str
    seen: tuple[Observation, ...]
    settled_on_new: bool = False


def follow_rollout(cloud: SageMaker, asked: Shift, plan: ReleasePlan, show: Show) -> End:
    """Watch a deployment with guardrails. The judge stops it as soon as it is sure that the new version is worse, and
    lets it count as promoted only when it is sure that it is not.

    Raises:
        ReleaseStuck: it has not settled in the time that its own plan allows, or it is in a state that we must not
        touch.
    """
    bench, seen = Bench(cloud, asked, plan), list[Observation]()
    settled: float | None = None
    poll = poll_seconds(plan.bake_seconds, cloud.clock_speed)
    for _ in ticks(cloud, cloud.now(), _allowed(plan), poll):  # not since it began: a dead run may have begun it
        observation = cloud.observe(plan.endpoint, asked.previous_config, asked.wanted_config, asked.since)
        if _is_judged(asked) and observation.green and observation.green.requests:
            observation = bench.judged(observation, bench.look(asked.since + observation.at))
        seen.append(observation)
        show(observation.green.weight if observation.green else 0.0, f"{observation.status} {observation.message}")
        verdict = judge_release(observation.status, cloud.serving_config(plan.endpoint), asked.wanted_config)
        if verdict is Verdict.STUCK:
            break
        if verdict is Verdict.RESTORE:
            return End(verdict, bench.reason if bench.verdict is Verdict.RESTORE else "", tuple(seen))
        if bench.verdict is Verdict.RESTORE:
            if verdict is Verdict.PROMOTE:
                return End(Verdict.RESTORE, bench.reason, tuple(seen), settled_on_new=True)
            if plan.inference != "SERVERLESS":  # no guardrail listens there: it is taken back once it serves
                cloud.rollouts.stop(asked.wanted_config, bench.reason)
        elif verdict is Verdict.PROMOTE:
            if _is_proven(observation, bench, plan):
                return End(verdict, bench.reason, tuple(seen), settled_on_new=True)
            settled = settled or observation.at
            if observation.at - settled > plan.judge.patience_seconds:
                return _undecided(bench, asked, plan, seen)
    raise not_settled(seen, plan)


def terms_of(history: History, plan: ReleasePlan) -> ReleasePlan:
    """By what a guarded move, or one whose trial is over, is judged. What a trial has proven needs no second verdict;
    the judge can still be against it.
    """
    if plan.on_trial:
        plan = plan.model_copy(update={"mode": "CANARY"})
    if history.proven_in:
        plan = plan.model_copy(update={"judge": plan.judge.model_copy(update={"promote": False})})
    return plan


def _is_judged(asked: Shift) -> bool:
    """Only where there is an old version to go back to."""
    return asked.previous_config not in (None, asked.wanted_config)


def _is_proven(observation: Observation, bench: Bench, plan: ReleasePlan) -> bool:
    """It serves; but where hardly anybody has asked it anything, no data is not good news."""
    asked = observation.green is not None and observation.green.requests >= plan.min_requests
    sure = not plan.judge.promote or not _is_judged(bench.asked) or bench.verdict is Verdict.PROMOTE
    return asked and sure


def _undecided(bench: Bench, asked: Shift, plan: ReleasePlan, seen: list[Observation]) -> End:
    if plan.judge.undecided == "stuck" or not _is_judged(asked):
        raise not_settled(seen, plan)
    reason = f"no verdict in {plan.judge.patience_seconds} s of the service's clock: {bench.reason}"
    return End(Verdict.RESTORE, reason, tuple(seen), settled_on_new=True)


def not_settled(seen: list[Observation], plan: ReleasePlan) -> ReleaseStuck:
    last = seen[-1] if seen else None
    answered = last.green.requests if last and last.green else 0
    judged = f"; {last.reason}" if last and last.reason else ""
    return ReleaseStuck(
        f"the release on {plan.endpoint} has no verdict",
        observed=f"{last.status if last else 'no observation'}; the new version has answered {answered} requests"
        + judged,
        limit=f"InService, {plan.min_requests} requests and the judge's verdict within "
        f"{plan.judge.patience_seconds} s after the last bake, by the service's clock",
        remedy="with little traffic lower min_requests, widen the judge's margins or set judge.promote to false; "
        "else read its FailureReason and the instances' logs",
    )


def follow_trial(cloud: SageMaker, asked: Shift, plan: ReleasePlan, percent: int, show: Show) -> TrialStep:
    """One step of a trial: give the new version ``percent`` of the traffic, and look until the step has an end.

    Raises:
        ReleaseStuck: the endpoint has failed, or stands on a config that is none of this release's.
    """
    bench, seen = Bench(cloud, asked, plan), list[Observation]()
    for _ in ticks(cloud, asked.since, _allowed(plan), poll_seconds(plan.bake_seconds, cloud.clock_speed)):
        standing, move = _move(bench, percent, seen)
        show(standing.share or 0.0, f"{seen[-1].status}: {bench.reason}")
        if move is Move.WEIGH:
            cloud.scaling.join(plan, standing.instances.get(CHALLENGER, 1))
            cloud.trials.weigh(plan.endpoint, percent)
        elif move is Move.STUCK:
            break
        elif move is not Move.WAIT:
            return _step(move, bench, percent, seen, standing)
    raise not_settled(seen, plan)


def second_look(cloud: SageMaker, asked: Shift, plan: ReleasePlan) -> TrialStep | None:
    """The end of a trial that was proven a while ago, where it would be taken back by now; else none: evidence that
    was enough once stays enough (``tasks/serving/evidence.py``).
    """
    bench, seen, percent = Bench(cloud, asked, plan), list[Observation](), plan.shares[-1]
    bench.look(cloud.now() - LOOK_SECONDS)  # the next one is fine where this one has seen the latency
    standing, move = _move(bench, percent, seen)
    return _step(move, bench, percent, seen, standing) if move is Move.RESTORE else None


def _move(bench: Bench, percent: int, seen: list[Observation]) -> tuple[Standing, Move]:
    """One look at a trial, and what follows from it."""
    cloud, asked, plan = bench.cloud, bench.asked, bench.plan
    standing = cloud.trials.standing(plan.endpoint)
    look = bench.look(standing.now)
    seen.append(bench.judged(_trial_observation(asked, standing, look), look))
    move = next_move(
        Sight(
            status=standing.status,
            config=standing.config,
            pending=standing.pending_config,
            share=standing.share,
            stood=standing.now - standing.modified,
            requests=look.candidate.requests,
        ),
        Names(str(asked.previous_config), str(asked.trial_config), asked.wanted_config),
        bench.verdict,
        percent=percent,
        last=percent == plan.shares[-1],
        bake_seconds=plan.bake_seconds,
        patience_seconds=plan.judge.patience_seconds,
        min_requests=plan.min_requests,
    )
    return standing, move


def _step(move: Move, bench: Bench, percent: int, seen: list[Observation], standing: Standing) -> TrialStep:
    reason = bench.reason
    if move is Move.RESTORE and bench.verdict is not Verdict.RESTORE:
        reason = standing.failure_reason or "SageMaker went back to the previous config: the trial did not start"
    if move is Move.UNDECIDED:
        reason = f"no verdict in {bench.plan.judge.patience_seconds} s of the service's clock: {reason}"
    found = {"percent": percent, "outcome": move.value, "reason": reason, "observations": tuple(seen)}
    return TrialStep.model_validate(found)


def _trial_observation(asked: Shift, standing: Standing, look: Look) -> Observation:
    share = standing.share or 0.0
    config = str(asked.trial_config)

    def fleet(variant: str, weight: float, answered: tuple[int, int]) -> FleetShare:
        requests, errors = answered
        return FleetShare(
            config=config, variant=variant, weight=weight, instances=standing.instances.get(variant, 0),
            requests=requests, errors=errors,
        )  # fmt: skip

    base = look.baseline
    return Observation(
        at=max(0.0, standing.now - asked.since),
        status=standing.status + ("/Trial" if standing.config == config else ""),
        blue=fleet("AllTraffic", 1 - share, (base.requests, base.errors) if base else (0, 0)),
        green=fleet(CHALLENGER, share, (look.candidate.requests, look.candidate.errors)),
        alarms={},
        message=standing.failure_reason,
    )


def poll_seconds(bake_seconds: float, clock_speed: float) -> float:
    """Wall seconds between two looks. A rehearsal's clock may run past a whole step in two; a quarter of it may not."""
    return POLL_SECONDS if clock_speed <= 1 else min(POLL_SECONDS, max(0.2, bake_seconds / 4 / clock_speed))


def _allowed(plan: ReleasePlan) -> float:
    steps = -(-100 // plan.step_percent)
    bakes = {"CANARY": 2, "LINEAR": steps, "ROLLING": steps, "WEIGHTS": len(plan.shares)}.get(plan.mode, 1)
    patience = plan.judge.patience_seconds * (len(plan.shares) or 1)
    return bakes * plan.bake_seconds + patience + EXTRA_SECONDS


def wait_until_serving(cloud: SageMaker, endpoint: str, allowed: float = EXTRA_SECONDS) -> None:
    """Return when the endpoint is InService; ``allowed`` seconds of the service's clock may pass.

    Raises:
        ReleaseStuck: it has failed, or has not got there in time.
    """
    for _ in ticks(cloud, cloud.now(), allowed, poll_seconds(60, cloud.clock_speed)):
        serving = cloud.serving(endpoint)
        status = serving.status if serving else "absent"
        if status == "InService":
            return
        if serving and status not in MOVING:
            break
    raise ReleaseStuck(
        f"endpoint {endpoint} does not serve",
        observed=f"{status}: {serving.failure_reason}" if serving else status,
        limit=f"InService within {allowed:.0f} s of the service's clock",
        remedy="read the FailureReason and the instances' logs, mend or delete the endpoint, then release again",
    )


def ticks(cloud: SageMaker, since: float, allowed: float, seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Once at once, then every ``seconds`` of wall time, until ``allowed`` seconds of the service's clock are over."""
    started = time.monotonic()
    while True:
        yield
        if time.monotonic() - started > LEAST_WALL_SECONDS and cloud.now() - since > allowed:
            return
        time.sleep(seconds)
