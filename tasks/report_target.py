"""What serves a version, and what a person must know of it, on the run's page and in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from tasks.adapters.obstacles import Obstacle
from tasks.contracts import RegisteredModel
from tasks.plans import ReleasePlan

log = logging.getLogger(__name__)


def report_target(registered: RegisteredModel, plan: ReleasePlan, image: str, warnings: Sequence[Obstacle]) -> None:
    """One page a package: target, image, instance type, and every warning with its remedy."""
    for each in warnings:
        log.warning("%s: %s; limit: %s; %s", each.cause, each.observed, each.limit, each.remedy)
    create_markdown_artifact(
        target_markdown(registered, plan, image, warnings), key="target", description="What serves the version"
    )


def target_markdown(registered: RegisteredModel, plan: ReleasePlan, image: str, warnings: Sequence[Obstacle]) -> str:
    """The same as text."""
    lines = [
        f"# {registered.name} {registered.version}: {plan.target.kind}",
        f"- image `{image}`",
        f"- {plan.instances} × {plan.instance_type}, released by {plan.mode}",
    ]
    if warnings:
        lines += ["", "| to know | observed | limit | remedy |", "|---|---|---|---|"]
        lines += [f"| {each.cause} | {each.observed} | {each.limit} | {each.remedy} |" for each in warnings]
    return "\n".join(lines)
