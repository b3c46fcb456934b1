"""What this Prefect run knows about itself."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run


def cached_stages() -> set[str]:
    """The tasks of this flow run that were answered from the cache, by task name."""
    run_id = flow_run.get_id()
    if run_id is None:
        return set()
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    return {run.task_key.rsplit("-", 1)[0].rsplit(".", 1)[-1] for run in runs if run.state_name == "Cached"}
