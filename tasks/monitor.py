"""After a promotion: standing alarms, a dashboard and sampled requests, as the plan says."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from tasks.cloud import sagemaker
from tasks.monitoring_contracts import Guarded
from tasks.plans import ReleasePlan
from tasks.retrying import network_task


@network_task("monitor-{plan.endpoint}")
def monitor(plan: ReleasePlan) -> Guarded:
    """Make or change what stands guard over the endpoint. Asked twice, it is the same.

    Raises:
        EndpointMissing: there is no such endpoint.
    """
    guard = sagemaker().monitoring.apply(plan)
    guarded = Guarded(
        endpoint=plan.endpoint, alarms=guard.alarms, dashboard=guard.dashboard,
        capture_percent=plan.monitoring.capture_percent, notes=guard.notes,
    )  # fmt: skip
    create_markdown_artifact(
        guard_markdown(guarded), key="monitoring", description=f"What stands guard over **{plan.endpoint}**"
    )
    return guarded


def guard_markdown(guarded: Guarded) -> str:
    """Names, so that a person finds them in CloudWatch."""
    percent = guarded.capture_percent
    kept = f"{percent} % of the requests are kept: data.source = `capture://{guarded.endpoint}`" if percent else ""
    lines = [
        f"# Standing guard over {guarded.endpoint}",
        *(f"- alarm `{name}`" for name in guarded.alarms),
        f"- dashboard `{guarded.dashboard}`" if guarded.dashboard else "- no dashboard",
        f"- {kept or 'no request is kept'}",
        *(f"- {note}" for note in guarded.notes),
    ]
    return "\n".join(lines)
