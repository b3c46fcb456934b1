"""Bring an endpoint to rest: the last good version back, or a release whose run has died to its end.

Everything is decided from what SageMaker says and from what releases have written on the endpoint, so it can be
repeated and can itself be killed. What SageMaker is still moving, under its guard, is watched to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prefect.events import emit_event
from pydantic import BaseModel

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_history import History
from tasks.adapters.sagemaker_names import VARIANT
from tasks.adapters.sagemaker_observe import Serving
from tasks.adapters.sagemaker_requests import MAX_EXECUTION
from tasks.bench import LOOK_SECONDS, Bench
from tasks.cloud import sagemaker
from tasks.contracts import ModelPackage, Settled, Shift
from tasks.errors import RefusedRequest, ReleaseStuck
from tasks.following import terms_of, wait_until_serving
from tasks.plans import ReleasePlan
from tasks.register import registry
from tasks.retrying import network_task
from tasks.runpages import parameters_of
from tasks.scale import put_scaling
from tasks.serving.canary import Verdict
from tasks.watch import answer_of

Action = Literal["restored", "finished", "kept", "unchanged"]


class Decision(BaseModel):
    """Which config is to serve, and why. ``bad``: the config that it replaces, with ``restored`` only."""

    action: Action
    target: str
    reason: str
    bad: str | None = None


def plan_of(crashed_run: str) -> ReleasePlan:
    """The release plan of a flow run that died."""
    return ReleasePlan.model_validate(parameters_of(crashed_run).get("plan") or {})


def terms_of_move(history: History, plan: ReleasePlan) -> ReleasePlan:
    """By what an open move is judged: the plan of the run that began it. Where this Prefect server does not know that
    run, ``plan``, which is another release's to the same endpoint.
    """
    if not history.open or not history.run:
        return plan
    try:
        theirs = plan_of(history.run)
    except RefusedRequest:
        return plan
    return theirs if theirs.endpoint == plan.endpoint else plan


@network_task("take-over-{plan.endpoint}")
def take_over(new: ModelPackage, plan: ReleasePlan) -> None:
    """Before a release: end what a dead run began here, unless it is this very release, and remove what it left."""
    cloud = sagemaker()
    history, wanted = cloud.history(plan.endpoint), cloud.config_name(new, plan)
    if history.open and (history.moving_to != wanted or history.purpose == "restore"):
        bring_to_rest(cloud, plan, back=False)
        history = cloud.history(plan.endpoint)
    if history.known or cloud.serving(plan.endpoint) is None:
        keep = (wanted, history.moving_from, history.previous)
        cloud.sweep(plan.endpoint, keep={config for config in keep if config})


@network_task("restore-{plan.endpoint}")
def bring_back(plan: ReleasePlan) -> Settled:
    """The last good version serves, and the registry says so. Where it serves already, nothing moves."""
    return bring_to_rest(sagemaker(), plan, back=True)


@network_task("finish-{plan.endpoint}")
def finish(plan: ReleasePlan) -> Settled:
    """Bring the release of a dead run to its end. Where none is open, nothing moves."""
    cloud = sagemaker()
    settled = bring_to_rest(cloud, plan, back=False)
    if settled.action not in ("unchanged", "absent"):
        put_scaling(cloud, plan)
    return settled


def bring_to_rest(cloud: SageMaker, plan: ReleasePlan, *, back: bool) -> Settled:
    """Wait for SageMaker, decide which config is to serve, see it serve, settle the registry, remove what is left.

    That what serves then does not answer is in the result and no error: it must not stand in the way of the release
    that mends it.

    Raises:
        ReleaseStuck: the endpoint has failed, or does not serve what it was asked to.
    """
    endpoint = plan.endpoint
    if cloud.serving(endpoint) is None:
        return Settled(
            endpoint=endpoint, action="absent", config=None, version=None, reason="there is no endpoint of this name",
            swept=tuple(cloud.sweep(endpoint)), rehearsal=cloud.describe_rehearsal(),
        )  # fmt: skip
    wait_until_serving(cloud, endpoint, MAX_EXECUTION)
    history, serving = cloud.history(endpoint), _serving(cloud, endpoint)
    plan = terms_of_move(history, plan)
    on_trial = cloud.trials.read(serving.config) is not None
    made = decide(history, serving.config, on_trial, back=back, is_good=lambda: is_good(cloud, plan, history))
    if made.target != serving.config:
        cloud.rollouts.restore(endpoint, made.target)
        wait_until_serving(cloud, endpoint, MAX_EXECUTION)
        serving = _serving(cloud, endpoint)
        _require_config(serving, made.target)
    answer, answered = answer_of(cloud, plan)
    _settle_registry(cloud, made, serving, history.moving_from)
    return Settled(
        endpoint=endpoint, action=made.action, config=serving.config, version=serving.version, reason=made.reason,
        other_config=made.bad or history.moving_from if made.action == "finished" else made.bad or history.moving_to,
        probe=answer, answered=answered, swept=_tidied(cloud, endpoint, history, made),
        rehearsal=cloud.describe_rehearsal(endpoint),
    )  # fmt: skip


def require_answer(settled: Settled) -> None:
    """Stop here when what serves now does not answer.

    Raises:
        ReleaseStuck: with what came instead.
    """
    if not settled.answered:
        raise ReleaseStuck(
            f"{settled.config} serves all traffic of {settled.endpoint} and does not answer",
            observed=f"{settled.action}, {settled.reason}; {settled.probe}", limit="an answer to a real inference",
            remedy="read its instances' logs, mend the version and release it: nothing is left open in its way",
        )  # fmt: skip


def decide(history: History, serving: str, on_trial: bool, *, back: bool, is_good: Callable[[], bool]) -> Decision:
    """Which config is to serve; ``serving`` does now, and nothing moves.

    Args:
        on_trial: Whether that config has both versions beside each other.
        back: Whether a person wants the last good version, instead of the end of what was begun.
        is_good: Asked only of a version that a dead release has moved all traffic to.
    """
    source, target = history.moving_from, history.moving_to
    if history.open and history.purpose == "restore":
        return Decision(action="restored", target=str(target), bad=source, reason="a restore had begun and is finished")
    if history.open and serving == target and source is not None:
        if back:
            return Decision(
                action="restored", target=source, bad=serving, reason="a person asked for the last good one"
            )
        if is_good():
            return Decision(
                action="finished", target=serving, reason="SageMaker moved all traffic, and it answers well"
            )
        return Decision(action="restored", target=source, bad=serving, reason="the new version is not proven")
    if history.open and on_trial and source is not None:
        return Decision(action="restored", target=source, reason="a trial has lost its judge")
    if history.open:
        return Decision(
            action="kept", target=serving, reason="the release had moved nothing, or SageMaker took it back"
        )
    if back and history.previous is not None:
        return Decision(
            action="restored", target=history.previous, bad=serving, reason="a person asked for the last good one"
        )
    return Decision(action="unchanged", target=serving, reason="no release is open, and none to go back to is known")


def is_good(cloud: SageMaker, plan: ReleasePlan, history: History) -> bool:
    """What the release's own end would have asked of the version that it was moving to: enough requests, the judge's
    verdict on all since it began, and a real inference now. No data is not good news.
    """
    if history.since is None:
        return False
    source = history.proven_in or history.moving_from  # after a shadow the old version served as its trial's variant
    asked = Shift(
        endpoint=plan.endpoint, wanted_config=str(history.moving_to), previous_config=source, since=history.since
    )
    terms = terms_of(history, plan)
    bench = Bench(cloud, asked, terms)
    bench.look(0.0)
    look = bench.look(LOOK_SECONDS)  # once more, finely where the first has seen the latency
    proven = history.proven_in is not None
    return is_enough(bench.verdict, look.candidate.requests, terms, proven) and answer_of(cloud, plan)[1]


def is_enough(verdict: Verdict, requests: int, terms: ReleasePlan, proven: bool) -> bool:
    """Whether the evidence promotes. ``proven``: a trial has shown all that is asked for, only its last step died."""
    if verdict is Verdict.RESTORE:
        return False
    return proven or (requests >= terms.min_requests and (verdict is Verdict.PROMOTE or not terms.judge.promote))


def _settle_registry(cloud: SageMaker, made: Decision, serving: Serving, before: str | None) -> None:
    """Aliases and their history say what serves; the same events as at a release's own end. ``before``: the config
    that a finished release has moved away from.
    """
    if made.action not in ("finished", "restored"):
        return
    books = registry()
    name, version = str(serving.registered), str(serving.version)
    is_version = books.has_version(name, version)
    if made.action == "finished":
        if is_version:
            books.promote(name, version)
            books.begin_serving(name, version, serving.endpoint, serving.config, VARIANT, before or "", made.reason)
    elif made.bad is not None:
        bad_name, bad_version = cloud.version_of(made.bad)
        if books.has_version(bad_name, bad_version):
            good = version if is_version and name == bad_name else None
            books.take_back(bad_name, bad_version, good, f"restored: {made.reason}")
        if is_version:
            books.begin_serving(name, version, serving.endpoint, serving.config, VARIANT, made.bad, made.reason)
        elif books.has_version(bad_name, bad_version):
            books.end_serving(bad_name, bad_version, serving.endpoint, serving.config, made.reason)
    emit_event(
        "release.promoted" if made.action == "finished" else "release.restored",
        resource={"prefect.resource.id": f"slimline.endpoint.{serving.endpoint}"},
        payload={"version": version, "phase": made.action, "config": serving.config},
    )


def _tidied(cloud: SageMaker, endpoint: str, history: History, made: Decision) -> tuple[str, ...]:
    """Remove alarms and what nothing uses, then write that the release has ended: last, for all this can be killed."""
    if made.action == "unchanged" and not history.known:
        return ()  # made by others, or before releases wrote on endpoints: its previous version is not known
    previous = {"finished": history.moving_from, "restored": None}.get(made.action, history.previous)
    swept = cloud.sweep(endpoint, keep={previous} if previous else ())
    for config in {history.moving_to, made.bad} - {None}:
        cloud.remove_alarms(str(config))
    cloud.close(endpoint, previous)
    return tuple(swept)


def _serving(cloud: SageMaker, endpoint: str) -> Serving:
    serving = cloud.serving(endpoint)
    if serving is None:
        raise ReleaseStuck(
            f"endpoint {endpoint} was deleted meanwhile", observed="DescribeEndpoint found none", limit="an endpoint",
            remedy="release to create it again",
        )  # fmt: skip
    return serving


def _require_config(serving: Serving, target: str) -> None:
    if serving.config != target:
        raise ReleaseStuck(
            f"endpoint {serving.endpoint} did not go back", observed=f"{serving.status} with {serving.config}",
            limit=f"InService with {target}", remedy="read its FailureReason and the instances' logs; restore again",
        )  # fmt: skip
