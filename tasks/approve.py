"""Ask a person before the new version takes over: the run pauses, and its page shows the evidence and a form."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from tasks.adapters.sagemaker import SageMaker
from tasks.cloud import sagemaker
from tasks.contracts import Approval, ModelPackage, Rollout, Shift, TrialStep
from tasks.deploy import asked_before
from tasks.errors import ReleaseRestored
from tasks.findings import evidence_markdown
from tasks.plans import ReleasePlan
from tasks.retrying import network_task
from tasks.runpages import tell_parent
from tasks.watch import describe, take_back


class Decision(RunInput):
    """The form of a paused release."""

    approve: bool = Field(False, description="Yes: the new version takes the traffic. No: the old one keeps it")
    reason: str = Field("", description="Kept with the release")


@network_task("show-evidence-{plan.endpoint}")
def show_evidence(new: ModelPackage, plan: ReleasePlan, steps: tuple[TrialStep, ...]) -> str:
    """What is known so far, on the run's page. Returns it."""
    text = evidence_markdown(new.registered, plan, steps)
    create_markdown_artifact(text, key="evidence", description="What a person decides on")
    answer = f"[Answer on the release's page]({flow_run.ui_url}): Resume"
    tell_parent("outcome-approval", f"{text}\n\n{answer}", "A person is asked, on the release's page")
    return text


def approval_of(new: ModelPackage, plan: ReleasePlan, steps: tuple[TrialStep, ...] = ()) -> Approval | None:
    """Pause until a person has decided, or ``approve_seconds`` are over, which is a no. None where nobody is asked: the
    plan does not want it, or nothing would move.
    """
    if not plan.approve or (steps and steps[-1].outcome != "promoted") or (not steps and serves_at_rest(new, plan)):
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


@network_task("look-at-{plan.endpoint}")
def serves_at_rest(new: ModelPackage, plan: ReleasePlan) -> bool:
    """Whether the version serves already, and no release has to be brought to its end."""
    return is_at_rest(sagemaker(), new, plan)


def is_at_rest(cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> bool:
    """As ``serves_at_rest``."""
    serves = cloud.serving_config(plan.endpoint) == cloud.config_name(new, plan)
    return serves and not cloud.history(plan.endpoint).open


@network_task("refuse-{plan.endpoint}")
def refuse(new: ModelPackage, plan: ReleasePlan, approval: Approval) -> Rollout:
    """The end of a release that a person refused. What a dead run of it has moved meanwhile goes back.

    Raises:
        ReleaseRestored: there is no endpoint yet, so there is nothing to describe.
    """
    return take_no(sagemaker(), new, plan, approval)


def take_no(cloud: SageMaker, new: ModelPackage, plan: ReleasePlan, approval: Approval) -> Rollout:
    """As ``refuse``."""
    serving, wanted = cloud.serving(plan.endpoint), cloud.config_name(new, plan)
    if serving is None:
        raise ReleaseRestored(
            f"the release was not approved, and {plan.endpoint} was not created",
            observed=approval.reason, limit="a person's approval", remedy="release again when it may be",
        )  # fmt: skip
    reason = f"not approved: {approval.reason}"
    if wanted in (serving.pending_config, serving.config):
        asked = asked_before(cloud, plan.endpoint, wanted, serving.config)
        if serving.pending_config == wanted:
            cloud.rollouts.stop(wanted, reason)
        take_back(cloud, asked)
    else:
        asked = Shift(endpoint=plan.endpoint, wanted_config=wanted, previous_config=serving.config, since=0)
    return describe("restored", asked, new, plan, cloud, reason=reason, approval=approval)
