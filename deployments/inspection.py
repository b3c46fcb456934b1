"""What ``slimline status`` shows of endpoints: the same on AWS and on the embedded stack."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import EndpointMissing, endpoint_missing
from tasks.adapters.sagemaker_overview import EndpointView
from tasks.cloud import sagemaker
from tasks.reporting import ROLLOUT_STEPS

POLL_SECONDS = 2.0
_STATUS_STYLES = {"InService": "green", "Failed": "red", "OutOfService": "red", "UpdateRollbackFailed": "red"}


@contextmanager
def naming_endpoints(cloud: SageMaker) -> Iterator[None]:
    """An endpoint that is not there is refused with the names of those that are."""
    try:
        yield
    except EndpointMissing as error:
        names = ", ".join(view.name for view in cloud.overview()) or "no endpoint yet"
        raise EndpointMissing(
            error.cause, observed=error.observed, limit=f"there are: {names}", remedy=error.remedy
        ) from None


def views(cloud: SageMaker, only: str | None) -> list[EndpointView]:
    """Every endpoint, or the one.

    Raises:
        EndpointMissing: ``only`` is not there.
    """
    with naming_endpoints(cloud):
        found = cloud.overview(only)
        if only and not found:
            raise endpoint_missing(only, "DescribeEndpoint found none")
        return found


def facts(only: str | None) -> dict[str, Any]:
    """For programs: the same as plain values.

    Raises:
        EndpointMissing: ``only`` is not there.
    """
    cloud = sagemaker()
    return {
        "endpoints": [dataclasses.asdict(view) for view in views(cloud, only)],
        "last_rollout": last_rollout(only) if only else [],
        "rehearsal": cloud.describe_rehearsal(),
    }


def draw(only: str | None) -> RenderableType:
    """For people: one table an endpoint, and with ``only`` its last rollout.

    Raises:
        EndpointMissing: ``only`` is not there.
    """
    cloud = sagemaker()
    parts: list[RenderableType] = [_endpoint(view) for view in views(cloud, only)]
    if not parts:
        parts.append("no endpoint yet")
    if rehearsal := cloud.describe_rehearsal():
        parts.append(Text(rehearsal, style="dim"))
    if only and (rows := last_rollout(only)):
        table = Table(*rows[0], title=f"Last rollout on {only}", title_justify="left")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        parts.append(table)
    return Group(*parts)


def keep_drawing(console: Console, picture: Callable[[], RenderableType]) -> None:
    """Draw again every two seconds until Ctrl-C; where there is no terminal, one below the other."""
    try:
        if not console.is_terminal:
            while True:
                console.print(picture())
                time.sleep(POLL_SECONDS)
        with Live(picture(), console=console, auto_refresh=False, vertical_overflow="visible") as live:
            while True:
                time.sleep(POLL_SECONDS)
                live.update(picture(), refresh=True)
    except KeyboardInterrupt:
        return


def keep_telling(tell: Callable[[], None]) -> None:
    """For programs: again every two seconds until Ctrl-C."""
    try:
        while True:
            tell()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def last_rollout(endpoint: str) -> list[dict[str, Any]]:
    """The steps of the newest rollout of ``endpoint`` that Prefect has a page of; empty where there is none."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[ROLLOUT_STEPS])), sort=ArtifactSort.CREATED_DESC
        )
    for artifact in found:
        if f"**{endpoint}**" in (artifact.description or "") and (rows := json.loads(str(artifact.data))):
            return list(rows)
    return []


def _endpoint(view: EndpointView) -> RenderableType:
    title = Text.assemble(
        ("endpoint ", "dim"), (view.name, "bold"), "  ",
        (view.status + (f"/{view.phase}" if view.phase else ""), _STATUS_STYLES.get(view.status, "yellow")),
    )  # fmt: skip
    table = Table("traffic", "version", "role", "instances", "requests, 1 h", "5xx, 1 h", "latency", "config / variant")
    for each in view.variants:
        version = f"{each.model} {each.version}".strip() or "–"
        counts = (
            f"{each.instances}"
            if each.instances == each.wanted_instances
            else (f"{each.instances} of {each.wanted_instances}")
        )
        failed = f"{each.errors} ({each.errors / each.requests:.1%})" if each.errors else "0"
        latency = "–" if each.average_ms is None else f"{each.average_ms:.0f} ms"
        table.add_row(
            f"{each.share:.0%}", version, each.role, counts, f"{each.requests}", failed, latency,
            f"{each.config} / {each.variant}",
        )  # fmt: skip
    return Group(title, table, *_remarks(view))


def _remarks(view: EndpointView) -> list[Text]:
    remarks = []
    if view.message:
        remarks.append(Text(view.message))
    if view.open_move:
        remarks.append(Text(f"under way, or left by a run that died: {view.open_move}", style="yellow"))
    if view.alarms:
        styles = {"ALARM": "red", "OK": "green"}
        states = [
            (f"{name.rpartition('-')[2]} {state}  ", styles.get(state, "yellow")) for name, state in view.alarms.items()
        ]
        remarks.append(Text.assemble("alarms: ", *states))
    for each in view.scaling:
        how = "; ".join(each.policies) or "no policy"
        how += f"; {each.scheduled} scheduled" if each.scheduled else ""
        how += "; held for the trial" if each.held else ""
        last = f"; last: {each.last}" if each.last else ""
        remarks.append(Text(f"autoscaling of {each.variant}: {each.low} to {each.high} {each.what}, {how}{last}"))
    if view.previous_config:
        remarks.append(Text(f"to go back to: {view.previous_config}", style="dim"))
    return remarks
