"""What a person sees in Prefect's form: every field has help and bounds, and every preset of prefect.yaml is valid."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import filterfalse
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.compress_and_release import compress_and_release
from tasks.forms import bounds_of, is_group, title_of
from tasks.plans import JudgeRules, ReleasePlan
from tasks.recipes import short_source
from tasks.targets import Target

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
def test_bounds_are_said_before_the_form_is_sent(deployment: dict[str, Any]) -> None:
    for name, field in leaves(parameter_schema(flow_of(deployment)).model_dump()):
        said = bounds_of(field)
        assert not said or field["description"].endswith(f"({said})"), name


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_titles_and_help_are_for_people(deployment: dict[str, Any]) -> None:
    for name, field in leaves(parameter_schema(flow_of(deployment)).model_dump()):
        words = field["title"].split()
        assert words[0][0].isupper() and not [word for word in words[1:] if word.istitle() and word != "Face"], name
        assert "<" not in field["description"], f"{name}: the form reads Markdown, and takes this for HTML"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_fields_stand_in_the_order_of_the_source_and_before_the_groups(deployment: dict[str, Any]) -> None:
    for definition in parameter_schema(flow_of(deployment)).model_dump()["definitions"].values():
        fields = definition["properties"].values()
        order = [field["position"] for field in (*filterfalse(is_group, fields), *filter(is_group, fields))]
        assert order == list(range(len(order)))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"minimum": 16, "maximum": 4096}, "16 to 4,096"),
        ({"exclusiveMinimum": 0, "maximum": 0.1}, "above 0, at most 0.1"),
        ({"minimum": 0, "exclusiveMaximum": 1}, "at least 0, below 1"),
        ({"minimum": 0}, "at least 0"),
        ({}, ""),
    ],
)
def test_bounds_as_people_read_them(field: dict[str, Any], said: str) -> None:
    assert bounds_of(field) == said
    assert title_of("max_kl") == "Max KL" and title_of("lmi") == "LMI"


@pytest.mark.parametrize(
    ("source", "short"),
    [("tiny", "tiny"), ("/models/my-llama/", "my-llama"), ("org/name", "name"), ("s3://bucket/texts", "texts")],
)
def test_a_run_is_named_by_the_last_part_of_its_source(source: str, short: str) -> None:
    assert short_source(source) == short


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=NAMES)
def test_the_preset_is_valid_and_described(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    flow.validate_parameters(deployment.get("parameters", {}))
    assert deployment["description"].strip() and deployment["tags"]


def test_a_group_that_few_need_is_folded_until_it_is_chosen() -> None:
    """Prefect's form cannot fold, but shows one of several alternatives, the first where there is no default."""
    definitions = parameter_schema(compress_and_release).model_dump()["definitions"]
    plan, target = (definitions[name]["properties"] for name in ("ReleasePlan", "Target"))
    folded = {name for name, field in (plan | target).items() if "anyOf" in field}
    assert folded == {"judge", "rehearsal", "asynchronous", "serverless", "scaling", "monitoring",
                      "lmi", "huggingface", "neuron", "jumpstart"}  # fmt: skip
    for field in (plan | target).values():
        assert not is_group(field) or "default" not in field, "a default that is a group would unfold all in it"
    assert plan["scaling"]["anyOf"][0] == {"type": "null", "title": "Defaults"}
    given = {"scaling": None, "target": {"kind": "lmi", "lmi": None}, "judge": {"harmless": 1}}
    chosen = ReleasePlan.model_validate(given)
    assert chosen == ReleasePlan(target=Target(kind="lmi"), judge=JudgeRules(harmless=1))
    with pytest.raises(ValidationError, match="mode"):
        ReleasePlan.model_validate({"mode": None})


def test_defaults_alone_are_a_valid_run() -> None:
    for deployment in DEPLOYMENTS:
        flow = flow_of(deployment)
        if flow.name != "release":
            flow.validate_parameters({})
