"""What this Prefect run asks of its server about itself and about other runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate as ArtifactRequest
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from tasks.errors import RefusedRequest


def tag_run(*tags: str) -> None:
    """Add tags to this flow run, so that the runs page finds it by them."""
    run_id = flow_run.id
    if run_id is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(str(run_id)))
        if not set(tags) <= set(run.tags):
            client.update_flow_run(run.id, tags=sorted({*run.tags, *tags}))


def on_top(key: str, markdown: str, description: str) -> None:
    """An artifact of this run itself and of none of its tasks: its page lists those first, above all progress and
    layers.
    """
    _on_page(flow_run.id, "markdown", key, markdown, description)


def picture_on_top(key: str, svg: str, alt: str, description: str, below: str = "") -> None:
    """As ``on_top``, of a picture with Markdown below it. The page of an image artifact would print the whole data:
    address below the picture.
    """
    image = base64.b64encode(svg.encode()).decode()
    on_top(key, f"![{alt}](data:image/svg+xml;base64,{image})" + (f"\n\n{below}" if below else ""), description)


def table_on_top(key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
    """As ``on_top``, of rows."""
    _on_page(flow_run.id, "table", key, json.dumps(list(rows)), description)


def tell_parent(key: str, markdown: str, description: str) -> None:
    """An artifact on the page of the run that this one is a subflow of: a person opens that page first. Nothing where
    this run stands alone.
    """
    parent = flow_run.parent_flow_run_id
    if parent is not None:
        _on_page(parent, "markdown", key, markdown, description)


def _on_page(run_id: object, kind: str, key: str, data: str, description: str) -> None:
    where = None if run_id is None else UUID(str(run_id))
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactRequest(type=kind, key=key, description=description, data=data, flow_run_id=where)
        )


def parameters_of(run_id: str) -> dict[str, Any]:
    """The parameters that a flow run was started with; a preset's or a form's, without the flow's own defaults.

    Raises:
        RefusedRequest: there is no such run.
    """
    key = _key(run_id)
    with get_client(sync_client=True) as client:
        return dict(_read(client, key).parameters)


def release_of(run_id: str) -> FlowRun | None:
    """The newest run of the flow ``release`` in a flow run: itself, or a subflow; none where it had not come so far.

    Raises:
        RefusedRequest: there is no such run.
    """
    key = _key(run_id)
    with get_client(sync_client=True) as client:
        run = _read(client, key)
        if client.read_flow(run.flow_id).name == "release":
            return run
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        named = FlowFilter(name=FlowFilterName(any_=["release"]))
        found = client.read_flow_runs(flow_filter=named, flow_run_filter=below, sort=FlowRunSort.START_TIME_DESC)
    return found[0] if found else None


def _key(run_id: str) -> UUID:
    try:
        return UUID(run_id)
    except ValueError as error:
        raise _no_such_run(run_id) from error


def _read(client: SyncPrefectClient, key: UUID) -> FlowRun:
    try:
        return client.read_flow_run(key)
    except ObjectNotFound as error:
        raise _no_such_run(str(key)) from error


def _no_such_run(run_id: str) -> RefusedRequest:
    return RefusedRequest(
        "there is no such flow run", observed=run_id, limit="the id of a flow run of this server",
        remedy="copy it from the run's page, or leave it empty to bring the last good version back",
    )  # fmt: skip
