"""What this Prefect run asks of its server about itself and about other runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run


def cached_stages() -> set[str]:
    """The tasks of this flow run that were answered from the cache, by the task's name."""
    run_id = flow_run.id
    if run_id is None:
        return set()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    names = (run.task_key.rsplit("-", 1)[0].rsplit(".", 1)[-1] for run in runs if run.state_name == "Cached")
    return {name.replace("_", "-") for name in names}


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
