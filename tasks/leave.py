"""What speaks against bringing an endpoint to rest: a release run's end, or that it has moved on."""

from __future__ import annotations

from prefect.client.schemas.objects import FlowRun

from tasks.cloud import sagemaker
from tasks.contracts import Settled
from tasks.plans import ReleasePlan

_MESSAGE = "Flow run encountered an exception: "  # how Prefect begins a Failed state's message, then the error's class


def why_left(release: FlowRun | None, plan: ReleasePlan) -> str:
    """Why the endpoint of a run that has ended is not to be touched; empty where it is to be brought to its end.

    Args:
        release: The run of the flow ``release``; none where it had not begun, so that what is open is another run's.
    """
    if release is None:
        return "the run had ended before its release began"
    message = (release.state.message or "") if release.state is not None else ""
    if message.startswith(f"{_MESSAGE}ReleaseRestored:"):
        return "the release had taken the new version back: nothing is left to undo"
    if message.startswith(f"{_MESSAGE}ReleaseStuck:") and plan.judge.undecided == "stuck":
        return "the release is undecided, and judge.undecided = stuck leaves it to a person"
    return ""


def why_not_degraded(config: str, plan: ReleasePlan) -> str:
    """Why an endpoint whose ``config`` was observed degraded is not to be touched any more; empty where it is."""
    serving = sagemaker().serving(plan.endpoint)
    if serving is None or serving.config != config:
        return f"{config} was observed degraded and serves no more"
    if serving.pending_config not in (None, config):
        return f"{config} was observed degraded, and {serving.pending_config} is on its way"
    return ""


def leave(plan: ReleasePlan, reason: str) -> Settled:
    """The endpoint as it stands."""
    cloud = sagemaker()
    serving = cloud.serving(plan.endpoint)
    return Settled(
        endpoint=plan.endpoint, action="left", config=serving.config if serving else None,
        version=serving.version if serving else None, reason=reason, rehearsal=cloud.describe_rehearsal(),
    )  # fmt: skip
