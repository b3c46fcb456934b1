"""Look at an endpoint, judge what was seen, and say so: to people, to MLflow, and to automations by an event."""

from __future__ import annotations

from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks.adapters.lineage import read_scorecard
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import endpoint_missing
from tasks.adapters.sagemaker_observe import Serving
from tasks.cloud import sagemaker
from tasks.contracts import Scorecard
from tasks.figures import milliseconds
from tasks.monitoring_contracts import Observed, Promise
from tasks.monitoring_plan import ObserveRules
from tasks.observation import allowed_ms, decide, wanted_act
from tasks.observe_report import draw_observed, report_observed
from tasks.record import tracking
from tasks.retrying import network_task
from tasks.settings import settings

EVENTS = {
    "healthy": "slimline.endpoint.healthy",
    "degraded": "slimline.endpoint.degraded",
    "no data": "slimline.endpoint.no-data",
}


@network_task("observe-{endpoint}")
def look_and_judge(endpoint: str, rules: ObserveRules) -> Observed:
    """See ``observed``, with the clients that the settings name."""
    return observed(sagemaker(), settings().mlflow_url, endpoint, rules)


def observed(cloud: SageMaker, mlflow_url: str, endpoint: str, rules: ObserveRules) -> Observed:
    """One look. Reads, and changes nothing.

    Raises:
        EndpointMissing: there is no such endpoint.
    """
    serving = cloud.serving(endpoint)
    if serving is None:
        raise endpoint_missing(endpoint, "DescribeEndpoint found none")
    promise = promise_of(mlflow_url, serving, cloud.served_digest(serving.config), rules)
    limit = allowed_ms(promise, rules)
    windows = cloud.evidence.windows(serving, rules, limit)
    alarms = cloud.monitoring.states(endpoint)
    verdict = decide(windows, promise, alarms, serving.status, rules)
    act, unless = wanted_act(verdict, rules, _under_way(cloud, serving))
    return Observed(
        endpoint=endpoint, config=serving.config, version=f"{serving.registered or ''} {serving.version or ''}".strip(),
        state=verdict.state, reason=f"{verdict.reason} {unless}".strip(), causes=verdict.causes, act=act,
        findings=verdict.findings, windows=windows, latency_quantile=rules.latency_quantile, promise=promise,
        alarms=alarms, rehearsal=cloud.describe_rehearsal(),
    )  # fmt: skip


def _under_way(cloud: SageMaker, serving: Serving) -> str:
    history = cloud.history(serving.endpoint)
    if history.open:
        return f"a {history.purpose} of {history.moving_to}"
    return "" if serving.status == "InService" else f"a change of the endpoint ({serving.status})"


def promise_of(mlflow_url: str, serving: Serving, digest: str, rules: ObserveRules) -> Promise:
    """What the scorecard of the served version says of its latency."""
    if not serving.registered or not serving.version:
        return Promise(latency_ms=None, note="the endpoint's config names no version")
    what = f"{serving.registered} {serving.version}"
    if not serving.version.isdigit():
        return Promise(latency_ms=None, note=f"{what} is not in the registry, so it has no scorecard")
    card, run_id = read_scorecard(mlflow_url, serving.registered, serving.version)
    return promised(card, run_id, what, digest, rules)


def promised(card: Scorecard, run_id: str, what: str, digest: str, rules: ObserveRules) -> Promise:
    """``digest``: of the folder that is served; times of another folder say nothing about it."""
    if card.served_model.digest != digest:
        note = f"the scorecard of {what} has no times of the folder that is served"
        return Promise(latency_ms=None, note=note, run_id=run_id)
    score = card.candidate
    latency = score.first_token_ms + (rules.answer_tokens - 1) * score.per_token_ms
    first, each = milliseconds(score.first_token_ms), milliseconds(score.per_token_ms)
    note = f"scorecard of {what}: {first} to the first token, {each} for each of {rules.answer_tokens - 1} more"
    return Promise(latency_ms=latency, note=note, run_id=run_id)


@network_task("record-observed-{found.endpoint}")
def record_observed(found: Observed, endpoint_page: str | None) -> None:
    """The report with its picture on the run page, and the same with the version's run in MLflow."""
    picture = draw_observed(found)
    report_observed(found, picture, endpoint_page)
    if found.promise.run_id:
        tracking().log_observed(found, str(flow_run.id or "by-hand"), picture)


@network_task("tell-{found.endpoint}")
def tell(found: Observed) -> None:
    """The event, for automations. ``slimline.act`` says what it asks for."""
    emit_event(
        EVENTS[found.state],
        resource={
            "prefect.resource.id": f"slimline.endpoint.{found.endpoint}",
            "prefect.resource.name": found.endpoint,
            "slimline.act": found.act,
        },
        payload={
            "endpoint": found.endpoint, "config": found.config, "version": found.version, "act": found.act,
            "causes": list(found.causes), "reason": found.reason,
        },
    )  # fmt: skip
