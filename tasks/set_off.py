"""The retraining that a degraded endpoint sets off: of the deployments that there are, those that release to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import emit_event

from tasks.monitoring_contracts import Observed
from tasks.plans import ReleasePlan
from tasks.retrying import network_task

WANTED, FLOW = "slimline.retraining.wanted", "retrain-and-release"
_PAGE = 200  # deployments that the server gives at a time


@network_task("set-off-retraining-of-{found.endpoint}")
def set_off_retraining(found: Observed) -> tuple[str, ...]:
    """An event about each deployment that retrains for this endpoint, for the automation that runs it: Prefect infers
    from the event which one that is, so that no other begins. Returns their names; where there is none, nothing moves,
    and the run's page says so.
    """
    with get_client(sync_client=True) as client:
        meant = [each for each in _deployments(client) if endpoint_of(each.parameters) == found.endpoint]
    names = tuple(each.name for each in meant)
    create_markdown_artifact(set_off_markdown(found.endpoint, names), key="set-off", description="What is run now")
    for each in meant:  # last: tried again after an event, the task would set the same off twice
        emit_event(
            WANTED,
            resource={"prefect.resource.id": f"prefect.deployment.{each.id}", "prefect.resource.name": each.name},
            payload={"endpoint": found.endpoint, "config": found.config, "causes": list(found.causes)},
        )
    return names


def _deployments(client: SyncPrefectClient) -> Iterator[DeploymentResponse]:
    named, offset = FlowFilter(name=FlowFilterName(any_=[FLOW])), 0
    while page := client.read_deployments(flow_filter=named, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def endpoint_of(parameters: dict[str, Any]) -> str:
    """Where a deployment with these parameters releases to: what it names, or the form's default."""
    plan = parameters.get("plan") or {}
    return str(plan.get("endpoint", ReleasePlan.model_fields["endpoint"].default))


def set_off_markdown(endpoint: str, names: tuple[str, ...]) -> str:
    """Which deployments are run, or what to do where there is none."""
    if names:
        return f"# Retraining for {endpoint}\n\nRun by the automation: {', '.join(f'`{name}`' for name in names)}."
    return (
        f"# Nothing retrains for {endpoint}\n\nNo deployment of {FLOW} has `plan.endpoint` = {endpoint} among its "
        "parameters. Make one, or set it on one that is there; nothing was run."
    )
