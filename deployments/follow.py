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
from rich.console import Console
from rich.text import Text

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
    """The flow run ended in another state than Completed."""


def run_and_follow(deployment: str, parameters: dict[str, Any], prefect_url: str, console: Console) -> Result:
    """Run ``deployment`` and print a line for each stage as it ends, and its progress while it works.

    Raises:
        RunFailed: with the run's own message: a gate that failed, a release that was restored, or an error.
    """
    with get_client(sync_client=True) as client:
        run = _trigger(client, deployment, parameters)
        page = f"{prefect_url}/runs/flow-run/{run.id}"
        console.print(f"Run of {deployment}: {page}")
        told: set[tuple[UUID, str]] = set()
        quarters: dict[str, int] = {}
        with console.status("waiting for the worker") as status:
            while True:
                run = client.read_flow_run(run.id)
                runs = [run, *_children(client, run.id)]
                family = [each.id for each in runs]
                for each in runs:
                    if each.state and each.state.is_paused() and (each.id, "paused") not in told:
                        told.add((each.id, "paused"))
                        console.print(f"  ‖ waits for a person: {prefect_url}/runs/flow-run/{each.id} (Resume)")
                for line in _news(client, family, told):
                    console.print(line)
                progress = _progress(client, family)
                if progress and console.is_terminal:
                    status.update(Text(progress.text))
                elif progress and progress.share // 25 > quarters.get(progress.stage, 0):
                    quarters[progress.stage] = progress.share // 25
                    console.print(f"    {progress.text}")
                if run.state is not None and run.state.is_final():
                    break
                time.sleep(POLL_SECONDS)
    if run.state is None or not run.state.is_completed():
        raise _failure(run, page)
    result = run.state.result(raise_on_failure=True)
    # Prefect hands back the class, or plain values where it does not resolve; unknown fields are refused by each class.
    plain = result.model_dump() if isinstance(result, Result) else result
    found: Result = TypeAdapter(Result).validate_python(plain)
    return found


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


def _news(client: SyncPrefectClient, family: list[UUID], told: set[tuple[UUID, str]]) -> Iterator[Text]:
    """One line for each task that has ended or is to be retried since we last looked."""
    runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=family)))
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


@dataclass(frozen=True)
class Progress:
    """The newest progress artifact: ``share`` in whole percent."""

    stage: str
    share: int
    text: str


def _progress(client: SyncPrefectClient, family: list[UUID]) -> Progress | None:
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=family), type=ArtifactFilterType(any_=["progress"])
        )
    )
    if not found:
        return None
    newest = max(found, key=lambda entry: entry.updated.timestamp() if entry.updated else 0.0)
    return Progress(stage=str(newest.key), share=int(float(str(newest.data or 0))), text=str(newest.description))


def _failure(run: FlowRun, page: str) -> RunFailed:
    state = run.state
    message = (state.message or "") if state is not None else ""
    message = message.removeprefix("Flow run encountered an exception: ")
    ours = _FOUR_PARTS.fullmatch(message)
    if ours:
        cause, observed, limit, remedy = (part.strip() for part in ours.groups())
        return RunFailed(cause, observed=observed, limit=limit, remedy=f"{remedy}\n  page:     {page}")
    return RunFailed(
        f"run {run.name} ended as {state.name if state else 'unknown'}",
        observed=message or "no message",
        limit="Completed",
        remedy=f"open {page}",
    )
