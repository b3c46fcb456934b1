"""What Prefect's server does by itself is there after `slimline up`, and a second one forgets nothing."""

from __future__ import annotations

import subprocess
import sys

import yaml

from deployments.local.stack import ROOT
from tests.flows.conftest import Line


def automations(line: Line) -> dict[str, str]:
    return {found["name"]: found["id"] for found in line.prefect("automations/filter")}


def test_automations_are_applied_and_left_alone_where_they_are_the_same(line: Line) -> None:
    wanted = yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
    before = automations(line)
    assert set(before) == {each["name"] for each in wanted}
    command = [sys.executable, "-m", "deployments.automations"]
    subprocess.run(command, env=line.stack.full_environment(), cwd=ROOT, check=True, timeout=120)
    assert automations(line) == before, "a replaced one would forget the runs that it waits to hear from"
