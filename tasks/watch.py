"""Watch a rollout until the endpoint has settled, and judge it by what the endpoint then really serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import BadAnswer
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.cloud import sagemaker
from tasks.contracts import DatasetRef, ModelPackage, Observation, Rollout, Shift
from tasks.errors import ReleaseRestored, ReleaseStuck
from tasks.recipes import ReleasePlan
from tasks.retrying import network_task
from tasks.serving.canary import Verdict, judge_release
from tasks.serving.traffic import send_traffic
from tasks.settings import settings
from tasks.workbench import Progress

POLL_SECONDS = 2.0
EXTRA_SECONDS = 3600.0  # allowed beside the baking: instances start, weights load
PROBES = 3
LEAST_WALL_SECONDS = 900.0  # a rehearsal's clock runs fast, but loading weights does not


@network_task("watch-{plan.endpoint}")
def watch(asked: Shift, new: ModelPackage, plan: ReleasePlan, data: DatasetRef) -> Rollout:
    """Watch until the endpoint has settled, then judge by its config's name and a real inference.

    Raises:
        ReleaseStuck: it has not settled in the time that its own plan allows, or it is in a state that we must not
        touch.
    """
    cloud = sagemaker()
    if _serves_already(asked, new, cloud):
        return _rollout("unchanged", asked, new, plan, cloud, ())
    seen: list[Observation] = []
    with _rehearsal(cloud, plan, data):
        for observation in _observations(cloud, asked, plan):
            seen.append(observation)
            verdict = judge_release(observation.status, cloud.serving_config(plan.endpoint), asked.wanted_config)
            if verdict is Verdict.PROMOTE and not _has_evidence(observation, plan):
                continue  # it serves, but hardly anybody has asked it anything: no data is not good news
            if verdict is not Verdict.WAIT:
                break
        else:
            raise _not_settled(seen, plan)
    if verdict is Verdict.STUCK:
        raise _not_settled(seen, plan)
    if verdict is Verdict.RESTORE:
        return _rollout("restored", asked, new, plan, cloud, tuple(seen))
    return _promoted(asked, new, plan, cloud, tuple(seen))


def _serves_already(asked: Shift, new: ModelPackage, cloud: SageMaker) -> bool:
    """Only the champion has been judged. An endpoint that a dead or stuck run has left on a challenger is watched."""
    if asked.previous_config != asked.wanted_config or new.registered.alias != "champion":
        return False
    serving = cloud.serving(asked.endpoint)
    return serving is not None and serving.config == asked.wanted_config and serving.pending_config is None


def _promoted(
    asked: Shift, new: ModelPackage, plan: ReleasePlan, cloud: SageMaker, seen: tuple[Observation, ...]
) -> Rollout:
    """The service is content; the last word has a real inference. Where it fails, the previous version comes back."""
    try:
        answer = probe_well(cloud, plan)
    except BadAnswer as error:
        if asked.previous_config in (None, asked.wanted_config):
            raise
        cloud.restore(plan.endpoint, str(asked.previous_config))
        wait_until_serving(cloud, plan.endpoint)
        last = seen[-1].model_copy(update={"message": f"a real inference failed: {error.observed}"})
        return _rollout("restored", asked, new, plan, cloud, (*seen, last))
    phase = "promoted" if asked.previous_config else "created"
    return _rollout(phase, asked, new, plan, cloud, seen, answer)


def probe_well(cloud: SageMaker, plan: ReleasePlan) -> str:
    """One failure in three is what the plan's error rate may allow; three in a row are not."""
    for _ in range(PROBES - 1):
        try:
            return cloud.probe(plan.endpoint, plan.probe_prompt)
        except BadAnswer:
            time.sleep(POLL_SECONDS)
    return cloud.probe(plan.endpoint, plan.probe_prompt)


def _has_evidence(observation: Observation, plan: ReleasePlan) -> bool:
    return observation.green is not None and observation.green.requests >= plan.min_requests


def _not_settled(seen: list[Observation], plan: ReleasePlan) -> ReleaseStuck:
    last = seen[-1] if seen else None
    answered = last.green.requests if last and last.green else 0
    return ReleaseStuck(
        f"the release on {plan.endpoint} has no verdict",
        observed=f"{last.status if last else 'no observation'}; the new version has answered {answered} requests",
        limit=f"InService and {plan.min_requests} requests within {_allowed(plan):.0f} s of the service's clock",
        remedy="with little traffic, lower min_requests; else read its FailureReason and the instances' logs",
    )


def require_promoted(rollout: Rollout) -> None:
    """Stop here when the release was restored.

    Raises:
        ReleaseRestored: with the alarms that fired and the share of errors that was seen.
    """
    if rollout.phase != "restored":
        return
    last = rollout.observations[-1]
    worst = max(
        (fleet for seen in rollout.observations if (fleet := seen.green)), key=lambda fleet: fleet.errors, default=None
    )
    fired = [name for seen in rollout.observations for name, state in seen.alarms.items() if state == "ALARM"]
    raise ReleaseRestored(
        f"the new version was taken back; {rollout.config} serves all traffic of {rollout.endpoint}",
        observed=(
            f"{worst.errors} errors in {worst.requests} requests" if worst else last.message or "new fleet failed"
        )
        + (f"; alarms: {', '.join(sorted(set(fired)))}" if fired else ""),
        limit="the release plan's max_error_rate and max_latency_ms",
        remedy="read the new fleet's logs, mend the version, and release again: nothing is left to undo",
    )


def _observations(cloud: SageMaker, asked: Shift, plan: ReleasePlan) -> Iterator[Observation]:
    """One observation a tick, until the service's clock has passed what the plan allows."""
    progress = Progress("release")
    for _ in _ticks(cloud, asked.since, _allowed(plan), poll_seconds(plan.bake_seconds, cloud.clock_speed)):
        observation = cloud.observe(plan.endpoint, asked.previous_config, asked.wanted_config, asked.since)
        share = observation.green.weight if observation.green else 0.0
        progress.show(share, f"{observation.status} {observation.message}")
        yield observation


def poll_seconds(bake_seconds: float, clock_speed: float) -> float:
    """Wall seconds between two looks. A rehearsal's clock may run past a whole step in two; a quarter of it may not."""
    return POLL_SECONDS if clock_speed <= 1 else min(POLL_SECONDS, max(0.2, bake_seconds / 4 / clock_speed))


def _allowed(plan: ReleasePlan) -> float:
    steps = {"CANARY": 2, "LINEAR": -(-100 // plan.step_percent), "ALL_AT_ONCE": 1}[plan.mode]
    return steps * plan.bake_seconds + EXTRA_SECONDS


def _rollout(
    phase: str,
    asked: Shift,
    new: ModelPackage,
    plan: ReleasePlan,
    cloud: SageMaker,
    seen: tuple[Observation, ...],
    answer: str | None = None,
) -> Rollout:
    if answer is None:
        try:
            answer = probe_well(cloud, plan)
        except BadAnswer as error:
            # The release has ended as it has; that the old version fails too is for people to read, not to hide it.
            answer = f"no answer: {error.observed}"
    return Rollout.model_validate(
        {
            "endpoint": plan.endpoint,
            "phase": phase,
            "config": cloud.serving_config(plan.endpoint),
            "previous_config": asked.previous_config,
            "asked_config": asked.wanted_config,
            "registered": new.registered,
            "observations": seen,
            "probe": answer,
            "rehearsal": cloud.describe_rehearsal(),
        }
    )


def wait_until_serving(cloud: SageMaker, endpoint: str, allowed: float = EXTRA_SECONDS) -> None:
    """Return when the endpoint is InService; ``allowed`` seconds of the service's clock may pass.

    Raises:
        ReleaseStuck: it has failed, or has not got there in time.
    """
    for _ in _ticks(cloud, cloud.now(), allowed):
        serving = cloud.serving(endpoint)
        status = serving.status if serving else "absent"
        if status == "InService":
            return
        if serving and status in {"Failed", "OutOfService", "UpdateRollbackFailed"}:
            break
    raise ReleaseStuck(
        f"endpoint {endpoint} does not serve",
        observed=f"{status}: {serving.failure_reason}" if serving else status,
        limit=f"InService within {allowed:.0f} s of the service's clock",
        remedy="read the FailureReason and the instances' logs, mend or delete the endpoint, then release again",
    )


def _ticks(cloud: SageMaker, since: float, allowed: float, seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Once at once, then every ``seconds`` of wall time, until ``allowed`` seconds of the service's clock are over."""
    started = time.monotonic()
    while True:
        yield
        if time.monotonic() - started > LEAST_WALL_SECONDS and cloud.now() - since > allowed:
            return
        time.sleep(seconds)


@contextmanager
def _rehearsal(cloud: SageMaker, plan: ReleasePlan, data: DatasetRef) -> Iterator[None]:
    """Send held-out prompts while the block runs, at the plan's rate. On AWS the plan has no rate: real users are
    the traffic.
    """
    if plan.rehearsal.requests_per_second == 0 or not cloud.describe_rehearsal():
        yield
        return
    store = Store(settings().store)
    prompts = read_dataset(store.open(data.uri, data.digest)).splits.prompts
    stop = threading.Event()
    sender = threading.Thread(
        target=send_traffic,
        kwargs={
            "send": lambda prompt: cloud.send(plan.endpoint, prompt, {"max_new_tokens": 8}),
            "prompts": prompts,
            "rate": plan.rehearsal.requests_per_second,
            "stop": stop,
            "max_seconds": 1800.0,
        },
        name=f"rehearsal-{flow_run.name}",
        daemon=True,
    )
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join(timeout=60)
