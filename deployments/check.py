"""``slimline check``: whether a version, or a model folder, can be served as a release plan says. Creates nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.adapters.lineage import read_version
from tasks.adapters.model_facts import read_facts
from tasks.adapters.obstacles import Obstacle, refuse
from tasks.adapters.sagemaker_limits import check_rules
from tasks.adapters.serveability import obstacles
from tasks.adapters.store import Store
from tasks.deploy import image_of, served
from tasks.errors import RefusedRequest
from tasks.hosted import ModelFacts
from tasks.plans import ReleasePlan
from tasks.settings import settings

_NOWHERE = "us-east-1"  # where no region is named; images differ by account only


def plan_of(
    target: str | None, instance_type: str | None, mode: str | None, instances: int | None, more: dict[str, Any]
) -> ReleasePlan:
    """The plan that the options describe; ``more`` are fields by their names, as in a deployment's ``plan``.

    Raises:
        pydantic.ValidationError: a field is unknown or out of bounds.
    """
    given = {"instance_type": instance_type, "mode": mode, "instances": instances}
    wanted = more | {name: value for name, value in given.items() if value is not None}
    if target is not None:
        wanted["target"] = wanted.get("target", {}) | {"kind": target}
    return ReleasePlan.model_validate(wanted)


def facts_of(folder: Path | None, model: str | None, version: str, plan: ReleasePlan) -> tuple[str, ModelFacts]:
    """What is to be served, by name, and its facts: of a folder, or of a registered version's folder in the store.

    Raises:
        Refused: there is neither, or not both; no such version; the version has no folder of the kind asked for.
    """
    if (folder is None) == (model is None):
        raise RefusedRequest(
            "check wants one thing to look at", observed="both" if folder else "neither a folder nor --model",
            limit="a model folder, or --model with --version",
            remedy="slimline check FOLDER, or slimline check --model NAME",
        )  # fmt: skip
    if folder is not None:
        return str(folder), read_facts(folder)
    registered = read_version(settings().mlflow_url, str(model), version).registered
    ref = served(registered, plan)
    place = Store(settings().store).open(ref.uri, ref.digest)
    return f"{registered.name} {registered.version}", read_facts(place, ref)


def look(facts: ModelFacts, plan: ReleasePlan) -> list[Obstacle]:
    """Every obstacle, refusals first; the plan's own ranges and the image's address among them. Makes no call."""
    found, image = [], ""
    try:
        check_rules(plan)
    except RefusedRequest as error:
        found.append(refuse("plan", error.cause, str(error.observed), str(error.limit), error.remedy))
    try:
        image = image_of(plan, settings().region or _NOWHERE, None)
    except RefusedRequest as error:
        found.append(refuse("image", error.cause, str(error.observed), str(error.limit), error.remedy))
    said = {each.cause for each in found}
    return [*found, *(each for each in obstacles(facts, plan, image) if each.cause not in said)]


def draw(what: str, facts: ModelFacts, plan: ReleasePlan, found: list[Obstacle]) -> RenderableType:
    """For people: what was looked at, a row an obstacle, and the verdict."""
    grids = f", {'/'.join(f'{bits:g}' for bits in facts.bits)} bits" if facts.bits else ""
    head = f"{what}: {facts.format}{grids}, {facts.bytes / 1e6:,.1f} MB → {plan.target.kind}, {plan.instances} × "
    parts: list[RenderableType] = [Text(f"{head}{plan.instance_type}, {plan.mode}")]
    if found:
        table = Table("", "rule", "why", "observed", "limit", "what to do", show_lines=True)
        styles = {"refuse": "red", "warn": "yellow"}
        for each in found:
            table.add_row(
                Text(each.severity, style=styles[each.severity]), each.rule, each.cause, each.observed, each.limit,
                each.remedy,
            )  # fmt: skip
        parts.append(table)
    good = servable(found)
    parts.append(Text("can be served and released like this" if good else "refused", style="green" if good else "red"))
    return Group(*parts)


def servable(found: list[Obstacle]) -> bool:
    return all(each.severity == "warn" for each in found)
