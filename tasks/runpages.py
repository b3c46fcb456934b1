"""What this Prefect run asks of its server about itself and about other runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

_PATIENCE_SECONDS = 20.0


def was_cached(stage: str) -> bool | None:
    """Whether the task ``stage`` of this flow run was answered from the cache; none where the server does not say.

    The server learns of a task run's state by an event, a moment after the flow went on: its final state is waited for.
    """
    run_id = flow_run.id
    if run_id is None:
        return False
    of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = [run for run in client.read_task_runs(flow_run_filter=of_this_run) if _stage(run.task_key) == stage]
            states = [run.state for run in runs if run.state is not None]
            if states and all(state.is_final() for state in states):
                return any(state.name == "Cached" for state in states)
            time.sleep(0.2)
    return None


def _stage(task_key: str) -> str:
    return task_key.rsplit("-", 1)[0].rsplit(".", 1)[-1].replace("_", "-")


@contextmanager
def alone_on(endpoint: str) -> Iterator[None]:
    """Hold the endpoint's slot: a second release of the same endpoint waits until the first has ended.

    The limit is made here and not at deployment, because the endpoint's name is a parameter. A slot of a run that
    died comes back when its lease ends, after five minutes.
    """
    name = f"slimline-endpoint-{endpoint}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with concurrency(name, occupy=1, strict=True):
        yield
