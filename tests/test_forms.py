"""What a person sees in Prefect's form: every field has help and bounds, and every preset of prefect.yaml is valid."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]
NAMES = [entry["name"] for entry in DEPLOYMENTS]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, name = deployment["entrypoint"].split(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    return flow


def leaves(schema: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the form's groups that a person fills in."""
    for group, definition in schema["definitions"].items():
        for name, field in definition["properties"].items():
            if "$ref" not in field and "allOf" not in field:
                yield f"{group}.{name}", field


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_every_field_of_the_form_explains_itself(deployment: dict[str, Any]) -> None:
    schema = parameter_schema(flow_of(deployment)).model_dump()
    for name, parameter in schema["properties"].items():
        # A group's help is its class's docstring; a plain field's comes from the flow's Args section.
        group = str(parameter.get("allOf", [parameter])[0].get("$ref", "")).rsplit("/", 1)[-1]
        assert parameter.get("description") or schema["definitions"][group]["description"], name
    fields = dict(leaves(schema))
    assert len(fields) > 9 or not schema["definitions"], "groups have fields"
    assert [name for name, field in fields.items() if not field.get("description")] == []


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_every_number_has_bounds_or_choices(deployment: dict[str, Any]) -> None:
    unbounded = [
        name
        for name, field in leaves(parameter_schema(flow_of(deployment)).model_dump())
        if field.get("type") in {"integer", "number"}
        and not ({"minimum", "exclusiveMinimum"} & field.keys() or "enum" in field or "const" in field)
    ]
    assert unbounded == []


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_fields_stand_in_the_order_of_the_source(deployment: dict[str, Any]) -> None:
    for definition in parameter_schema(flow_of(deployment)).model_dump()["definitions"].values():
        positions = [field["position"] for field in definition["properties"].values()]
        assert positions == sorted(positions)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_preset_is_valid_and_described(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    flow.validate_parameters(deployment.get("parameters", {}))
    assert deployment["description"].strip() and deployment["tags"]


def test_defaults_alone_are_a_valid_run() -> None:
    for deployment in DEPLOYMENTS:
        flow = flow_of(deployment)
        if flow.name != "release":
            flow.validate_parameters({})
