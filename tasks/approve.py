"""Ask a person before the new version takes over: the run pauses, and its page shows the evidence and a form."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.cloud import sagemaker
from tasks.contracts import Approval, ModelPackage, Rollout, Shift, TrialStep
from tasks.errors import ReleaseRestored
from tasks.findings import evidence_markdown
from tasks.recipes import ReleasePlan
from tasks.retrying import network_task
from tasks.watch import describe


class Decision(RunInput):
    """The form of a paused release."""

    approve: bool = Field(False, description="Yes: the new version takes the traffic. No: the old one keeps it")
    reason: str = Field("", description="Kept with the release")


@network_task("show-evidence-{plan.endpoint}")
def show_evidence(new: ModelPackage, plan: ReleasePlan, steps: tuple[TrialStep, ...]) -> str:
    """What is known so far, on the run's page. Returns it."""
    text = evidence_markdown(new.registered, plan, steps)
    create_markdown_artifact(text, key="evidence", description="What a person decides on")
    return text


def approval_of(new: ModelPackage, plan: ReleasePlan, steps: tuple[TrialStep, ...] = ()) -> Approval | None:
    """Pause until a person has decided, or ``approve_seconds`` are over, which is a no. None where nobody is asked."""
    if not plan.approve or (steps and steps[-1].outcome != "promoted"):
        return None
    text = show_evidence(new, plan, steps)
    try:
        said = pause_flow_run(
            wait_for_input=Decision.with_initial_data(description=text),
            timeout=plan.approve_seconds,
            poll_interval=2,
        )
    except FlowPauseTimeout:
        return Approval(approved=False, reason=f"nobody answered within {plan.approve_seconds} s")
    return Approval(approved=said.approve, reason=said.reason or ("approved" if said.approve else "no reason given"))


@network_task("refuse-{plan.endpoint}")
def refuse(new: ModelPackage, plan: ReleasePlan, approval: Approval) -> Rollout:
    """The end of a release that a person refused before anything moved.

    Raises:
        ReleaseRestored: there is no endpoint yet, so there is nothing to describe.
    """
    cloud = sagemaker()
    serving = cloud.serving_config(plan.endpoint)
    if serving is None:
        raise ReleaseRestored(
            f"the release was not approved, and {plan.endpoint} was not created",
            observed=approval.reason, limit="a person's approval", remedy="release again when it may be",
        )  # fmt: skip
    asked = Shift(endpoint=plan.endpoint, wanted_config=cloud.config_name(new, plan), previous_config=serving, since=0)
    return describe("restored", asked, new, plan, cloud, reason=f"not approved: {approval.reason}", approval=approval)
