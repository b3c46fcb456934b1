"""What Prefect's server does by itself is there after `slimline up`, and a second one forgets nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from prefect.settings.models.flows import FlowsSettings

from deployments.local.stack import ROOT
from tests.flows.conftest import Line

ERROR = "Flow run encountered an exception: "


def automations(line: Line) -> dict[str, str]:
    return {found["name"]: found["id"] for found in line.prefect("automations/filter")}


def test_automations_are_applied_and_left_alone_where_they_are_the_same(line: Line) -> None:
    wanted = yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
    before = automations(line)
    assert set(before) == {each["name"] for each in wanted}
    command = [sys.executable, "-m", "deployments.automations"]
    subprocess.run(command, env=line.stack.full_environment(), cwd=ROOT, check=True, timeout=120)
    assert automations(line) == before, "a replaced one would forget the runs that it waits to hear from"


def test_a_live_run_of_a_worker_that_nobody_configured_is_not_called_dead() -> None:
    """Prefect's own period is minutes; the embedded stack's is the least that it allows."""
    wanted = yaml.safe_load((ROOT / "deployments/automations.yaml").read_text())["automations"]
    within = next(each["trigger"]["within"] for each in wanted if each["trigger"]["posture"] == "Proactive")
    assert within >= 3 * FlowsSettings.model_fields["heartbeat_frequency"].default


def ended_run(line: Line, flow: str, state: str, message: str, **plan: Any) -> str:
    """A flow run as it stands in Prefect when its process is gone: it ran, then ended in ``state``. Its endpoint does
    not exist, so whatever the automation starts has nothing to wait for.
    """
    flow_id = line.prefect("flows/", name=flow)["id"]
    parameters = {"plan": {"endpoint": "nobody", **plan}}
    run = line.prefect("flow_runs/", flow_id=flow_id, parameters=parameters, state={"type": "RUNNING"})["id"]
    line.prefect(
        f"flow_runs/{run}/set_state", state={"type": state.upper(), "name": state, "message": message}, force=True
    )
    return str(run)


def restores(line: Line) -> dict[str, dict[str, Any]]:
    """Runs of ``restore`` by the run that they came for."""
    found = line.prefect("flow_runs/filter", flows={"name": {"any_": ["restore"]}})
    return {each["parameters"].get("crashed_run", ""): each for each in found}


def settled(line: Line, run: str) -> str:
    """What ``restore`` did about the run, once it has."""
    deadline = time.monotonic() + 240
    while (restore := restores(line).get(run)) is None or restore["state"]["type"] not in ("COMPLETED", "FAILED"):
        assert time.monotonic() < deadline, restore
        time.sleep(0.3)
    assert restore["state"]["type"] == "COMPLETED", restore["state"]
    return str(line.artifacts(restore["id"])["restore"]["data"])


@pytest.mark.timeout(400)
def test_a_release_that_failed_or_was_cancelled_is_brought_to_its_end_and_a_stuck_one_is_left(line: Line) -> None:
    done = ended_run(line, "release", "Failed", f"{ERROR}ReleaseRestored: the new version was taken back")
    other = ended_run(line, "compress", "Failed", f"{ERROR}GateFailed: too far from the original")
    stuck = ended_run(line, "release", "Failed", f"{ERROR}ReleaseStuck: no verdict", judge={"undecided": "stuck"})
    expired = ended_run(line, "release", "Failed", f"{ERROR}NoCredentials: the token has expired")
    cancelled = ended_run(line, "release", "Cancelled", "")
    crashed = ended_run(line, "release-version", "Crashed", "its process is gone")
    for run in (expired, cancelled):
        assert "nobody: absent" in settled(line, run), run
    assert "nobody: left" in settled(line, stuck) and "judge.undecided" in settled(line, stuck)
    assert "nobody: left" in settled(line, crashed) and "before its release began" in settled(line, crashed)
    assert not {done, other} & restores(line).keys()
