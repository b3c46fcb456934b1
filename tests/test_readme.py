"""What the README tells a person to type exists, and what it points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from deployments.cli import app
from tests.test_forms import DEPLOYMENTS, flow_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", README)) & {"demo", "test", "up", "down", "check"})
)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_slimline_commands_exist() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"(?:bin/|`)slimline ([a-z]+)", README))
    assert named and named <= commands


def test_parameters_that_are_set_exist() -> None:
    calls = re.findall(r"slimline run ([a-z-]+)((?: -p \S+)+)", README)
    assert {name for name, _ in calls} >= {"demo", "reader", "restore"}
    for name, parameters in calls:
        deployment = next(each for each in DEPLOYMENTS if each["name"] == name)
        defaults = flow_of(deployment).validate_parameters({})
        for path in re.findall(r"-p '?([a-z_.]+)=", parameters):
            here = defaults[path.split(".")[0]]
            for part in path.split(".")[1:]:
                here = getattr(here, part)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_ci_calls_the_test_command_of_the_readme() -> None:
    assert "make test" in README and "make test" in (ROOT / ".ci" / "run").read_text()
