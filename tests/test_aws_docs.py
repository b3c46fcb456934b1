"""What docs/aws.md tells a person to type exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from deployments.cli import app
from tasks.settings import Settings
from tests.test_forms import DEPLOYMENTS, flow_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ("docs/aws.md", "deployments/aws/README.md", "README.md")}


@pytest.mark.parametrize("page", ["docs/aws.md", "README.md"])
def test_every_run_that_is_asked_for_has_a_deployment_and_valid_parameters(page: str) -> None:
    lines = re.findall(r"^prefect deployment run .*$", PAGES[page], re.MULTILINE)
    assert lines
    for line in lines:
        _, _, _, name, *rest = shlex.split(line, comments=True)
        flow_name, _, deployment = name.partition("/")
        entry = next(each for each in DEPLOYMENTS if each["name"] == deployment)
        flow = flow_of(entry)
        assert flow.name == flow_name
        assert rest[::2] == ["--param"] * (len(rest) // 2)
        given = {}
        for pair in rest[1::2]:
            key, _, text = pair.partition("=")
            try:
                given[key] = json.loads(text)
            except json.JSONDecodeError:
                given[key] = text
        checked = flow.validate_parameters(entry.get("parameters", {}) | given)
        if "plan" in checked:
            assert checked["plan"].rehearsal.requests_per_second == 0, "refused on AWS"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_and_option_exists(page: str) -> None:
    settings = {f"SLIMLINE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bSLIMLINE_[A-Z_]+\b", PAGES[page])) <= settings
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"\bslimline (doctor|status)((?: [^`\n]*)?)", PAGES[page]):
        options = {each for param in commands[name].params for each in param.opts}
        assert set(re.findall(r"(--[a-z-]+)", rest)) <= options, (name, rest)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page: str) -> None:
    here = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (here / link).exists(), link
    for file in re.findall(r"`((?:tests|tasks|deployments|docker)/[\w./-]+)`", PAGES[page]):
        assert (ROOT / file).exists(), file
