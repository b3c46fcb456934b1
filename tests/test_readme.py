"""What the README tells a person to type exists, and what it points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from deployments.cli import app

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
    from flows.compress_and_release import compress_and_release
    from flows.distill_reader import distill_reader

    defaults = {False: compress_and_release.validate_parameters({}), True: distill_reader.validate_parameters({})}
    set_there = [
        ("run reader" in line, path) for line in README.splitlines() for path in re.findall(r"-p ([a-z_.]+)=", line)
    ]
    assert any(reader for reader, _ in set_there)
    for reader, path in set_there:
        here = defaults[reader][path.split(".")[0]]
        for name in path.split(".")[1:]:
            here = getattr(here, name)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_ci_calls_the_test_command_of_the_readme() -> None:
    assert "make test" in README and "make test" in (ROOT / ".ci" / "run").read_text()
