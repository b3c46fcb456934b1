"""What Prefect's server does by itself is there after `slimline up`, and a second one forgets nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

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


def test_a_run_is_one_process_that_starts_prefects_engine_once(line: Line) -> None:
    """Without a command of its own the worker would start Python twice for each run."""
    pool = line.prefect_get("work_pools/slimline")
    command = pool["base_job_template"]["variables"]["properties"]["command"]["default"]
    assert command.endswith("-m deployments.engine")
    assert command.split()[0] == sys.executable


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


OBSERVE = """
import sys
from prefect import flow
from tasks.contracts import Answers
from tasks.monitoring_contracts import Observed, Promise, Windows
from tasks.set_off import set_off_retraining

windows = Windows(since=0, middle=1, until=2, period=60, current=Answers(), before=Answers(), points=(), loads=())

@flow
def degraded(endpoint: str) -> list[str]:
    found = Observed(
        endpoint=endpoint, config="c", version="", state="degraded", reason="", act="retrain", windows=windows,
        latency_quantile=0.9, promise=Promise(latency_ms=None, note=""), alarms={},
    )
    return list(set_off_retraining(found))

for endpoint in sys.argv[1:]:
    print("SET OFF", endpoint, degraded(endpoint))
"""


def test_a_degraded_endpoint_is_retrained_by_the_deployment_that_releases_to_it_and_by_no_other(line: Line) -> None:
    """One of a person's own, which nobody has named in an automation. It asks for more new text than there is."""
    presets = [each for each in line.prefect("deployments/filter") if each["name"] in ("retrain", "retrain-tiny")]
    parameters = {
        "model": {"source": "tiny"}, "data": {"source": "python-docs"}, "registered_name": "nobody",
        "retraining": {"min_new_documents": 100_000_000}, "plan": {"endpoint": "nobody"},
    }  # fmt: skip
    own = line.prefect(
        "deployments/", name="nobody", flow_id=presets[0]["flow_id"], work_pool_name="slimline", path=str(ROOT),
        entrypoint="flows/retrain_and_release.py:retrain_and_release", parameters=parameters,
    )["id"]  # fmt: skip
    before = {each["id"] for each in line.prefect("flow_runs/filter")}
    command = [sys.executable, "-c", OBSERVE, "nobody", "nowhere"]
    said = subprocess.run(
        command, env=line.stack.full_environment(), cwd=ROOT, check=True, timeout=120, capture_output=True, text=True
    ).stdout
    assert "SET OFF nobody ['nobody']" in said and "SET OFF nowhere []" in said, said
    (run,) = ended_since(line, before, 1)
    assert run["deployment_id"] == own and run["parameters"]["degraded_endpoint"] == "nobody"
    assert run["state"]["name"] == "Skipped" and "at least 100,000,000 are asked for" in run["state"]["message"]


def test_a_retraining_that_is_called_for_another_endpoint_moves_nothing(line: Line) -> None:
    (preset,) = [each for each in line.prefect("deployments/filter") if each["name"] == "retrain-tiny"]
    before = {each["id"] for each in line.prefect("flow_runs/filter")}
    event = {
        "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": "slimline.retraining.wanted",
        "resource": {"prefect.resource.id": f"prefect.deployment.{preset['id']}"}, "payload": {"endpoint": "nobody"},
    }  # fmt: skip
    line.ask_prefect("POST", "events", [event])
    (run,) = ended_since(line, before, 1)
    assert run["deployment_id"] == preset["id"] and run["state"]["name"] == "Skipped"
    assert "nobody is degraded, and this one releases to slimline-tiny-retrained" in run["state"]["message"]


def ended_since(line: Line, before: set[str], count: int) -> list[dict[str, Any]]:
    """Runs of a retraining that were not there before, once so many have begun and all have ended."""
    deadline = time.monotonic() + 120
    while True:
        found = line.prefect("flow_runs/filter", flows={"name": {"any_": ["retrain-and-release"]}})
        runs = [each for each in found if each["id"] not in before]
        if len(runs) >= count and all(each["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED") for each in runs):
            return runs
        assert time.monotonic() < deadline, runs
        time.sleep(0.3)
