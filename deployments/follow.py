"""Trigger a deployment, show its stages while they run, and hand back its result."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import TypeAdapter
from rich.text import Text

from deployments.progress import Ticker
from tasks.batch_plan import BatchResult
from tasks.contracts import Outcome, Rollout, Settled
from tasks.errors import RefusedRecipe, SlimlineError
from tasks.monitoring_contracts import Observed
from tasks.reader_contracts import ReaderOutcome
from tasks.reproduction import Reproduction
from tasks.retraining import Retrained, Skipped
from tasks.search_contracts import Comparison

# What a deployment's flow hands back.
Result: TypeAlias = (
    Outcome
    | ReaderOutcome
    | Rollout
    | Settled
    | BatchResult
    | Comparison
    | Observed
    | Reproduction
    | Retrained
    | Skipped
)

POLL_SECONDS = 2.0
# What a SlimlineError looks like after it has been through Prefect.
_FOUR_PARTS = re.compile(r"(.*?)\n  observed: (.*?)\n  limit:    (.*?)\n  remedy:   (.*)", re.DOTALL)
HIDDEN = (
    "record-", "open-record-", "close-record-", "preflight-", "fit-", "read-", "look-", "tell-", "tidy-",
    "leave-trial-", "report-", "recorded-", "same-", "compare-",
)  # fmt: skip


class RunFailed(SlimlineError):
    """The flow run ended in another state than Completed. ``kind``: the name of the error that it ended with, as far
    as that is one of Slimline's own. ``context``: the run, for programs.
    """

    kind = ""
    context: dict[str, Any]


@dataclass(frozen=True)
class Followed:
    """A run that has ended well. ``run``: its id, name and page."""

    run: dict[str, str]
    outcome: Result


def run_and_follow(deployment: str, parameters: dict[str, Any], prefect_url: str, ticker: Ticker) -> Followed:
    """Run ``deployment`` and show a line for each stage as it ends, and its progress while it works.

    Raises:
        RunFailed: with the run's own message: a gate that failed, a release that was restored, or an error.
    """
    with get_client(sync_client=True) as client:
        run = _trigger(client, deployment, parameters)
        page = f"{prefect_url}/runs/flow-run/{run.id}"
        ticker.line(f"Run of {deployment}: {page}")
        told: set[tuple[UUID, str]] = set()
        try:
            with ticker:
                while run.state is None or not run.state.is_final():
                    run = _look(client, run.id, prefect_url, told, ticker)
        except KeyboardInterrupt:
            ticker.must_know(f"The run goes on: {page} (Cancel ends it there)")
            raise
    facts = {"id": str(run.id), "name": run.name, "url": page}
    if not run.state.is_completed():
        raise _failure(run, page, facts)
    result = run.state.result(raise_on_failure=True)
    # Prefect hands back the class, or plain values where it does not resolve; unknown fields are refused by each class.
    plain = result.model_dump() if isinstance(result, Result) else result
    found: Result = TypeAdapter(Result).validate_python(plain)
    return Followed(facts, found)


def _look(
    client: SyncPrefectClient, run_id: UUID, prefect_url: str, told: set[tuple[UUID, str]], ticker: Ticker
) -> FlowRun:
    """Show what is new since the last look; waits unless the run has ended."""
    run = client.read_flow_run(run_id)
    runs = [run, *_children(client, run.id)]
    for each in runs:
        if each.state and each.state.is_paused() and (each.id, "paused") not in told:
            told.add((each.id, "paused"))
            ticker.must_know(f"  ‖ waits for a person: {prefect_url}/runs/flow-run/{each.id} (Resume)")
    family = [each.id for each in runs]
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=family)))
    for stage, share, text in _progress(client, family):
        ticker.progress(stage, share, text)
    for line in _news(tasks, told):
        ticker.line(line)
    if run.state is None or not run.state.is_final():
        ticker.at_work(_at_work(tasks, run))
        time.sleep(POLL_SECONDS)
    return run


def _at_work(tasks: list[TaskRun], run: FlowRun) -> str:
    running = (each for each in tasks if each.state is not None and each.state.is_running())
    names = sorted(each.name for each in running if each.state and not each.state.state_details.child_flow_run_id)
    if names:
        return ", ".join(names)
    waits = run.state is None or run.state.is_scheduled() or run.state.is_pending()
    return "waiting for the worker" if waits else "between two stages"


def _trigger(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    known = {entry.name: entry for entry in client.read_deployments()}
    if deployment not in known:
        raise SlimlineError(
            f"there is no deployment {deployment!r}",
            observed=deployment,
            limit=", ".join(sorted(known)) or "none is served",
            remedy="name one of these; `slimline up` registers deployments/prefect.yaml",
        )
    entry = known[deployment]
    try:
        return client.create_flow_run_from_deployment(entry.id, parameters=_merged(entry.parameters, parameters))
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise
        raise RefusedRecipe(
            "the parameters do not fit the deployment's form; nothing was started",
            observed=error.response.json().get("detail", error.response.text),
            limit="the bounds and choices of the form",
            remedy="open the deployment in Prefect: its form shows help, bounds and choices of every field",
        ) from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The deployment's preset with ``changes`` laid over it, group by group."""
    merged = dict(base)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged


def _children(client: SyncPrefectClient, parent: UUID) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
    )


def _news(runs: list[TaskRun], told: set[tuple[UUID, str]]) -> Iterator[Text]:
    """One line for each task that has ended or is to be retried since we last looked."""
    for run in sorted(runs, key=lambda run: run.end_time.timestamp() if run.end_time else 0.0):
        state = run.state_name or ""
        final = run.state is not None and run.state.is_final()
        if run.state is None or run.state.state_details.child_flow_run_id:
            continue  # a subflow's stand-in: its own tasks are told one by one
        if not (final or "Retry" in state) or (run.id, state) in told or run.name.startswith(HIDDEN):
            continue
        told.add((run.id, state))
        yield _line(run, state)


def _line(run: TaskRun, state: str) -> Text:
    seconds = run.total_run_time.total_seconds()
    mark = {"Completed": ("✓", "green"), "Cached": ("✓", "cyan")}.get(state, ("✗", "red"))
    what = "cached" if state == "Cached" else f"{seconds:.1f} s" if state == "Completed" else state
    return Text.assemble("  ", mark, f" {run.name:<44} {what}")


def _progress(client: SyncPrefectClient, family: list[UUID]) -> Iterator[tuple[str, float, str]]:
    """(key, percent, text) of the newest progress artifact of each key, the oldest first."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=family), type=ArtifactFilterType(any_=["progress"])
        )
    )
    newest = {}
    for entry in sorted(found, key=lambda entry: entry.updated.timestamp() if entry.updated else 0.0):
        newest[str(entry.key)] = entry
    for key, entry in newest.items():
        yield key, float(str(entry.data or 0)), str(entry.description)


def _failure(run: FlowRun, page: str, facts: dict[str, str]) -> RunFailed:
    state = run.state
    message = (state.message or "") if state is not None else ""
    message = message.removeprefix("Flow run encountered an exception: ")
    ours = _FOUR_PARTS.fullmatch(message)
    if ours:
        said, observed, limit, remedy = (part.strip() for part in ours.groups())
        kind, _, cause = said.partition(": ")
        named = bool(cause) and kind.isidentifier()
        paged = f"{remedy}\n  page:     {page}"
        failed = RunFailed(cause if named else said, observed=observed, limit=limit, remedy=paged)
        failed.remedy = remedy  # for programs, which have the page beside it
        failed.kind = kind if named else ""
    else:
        failed = RunFailed(
            f"run {run.name} ended as {state.name if state else 'unknown'}",
            observed=message or "no message",
            limit="Completed",
            remedy=f"open {page}",
        )
    failed.context = {"run": facts}
    return failed
