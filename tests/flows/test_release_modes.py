"""A registered version, released by a mode that Slimline judges itself: from the deployment's form to the champion."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.flows.browser import FOUND, approve, browser
from tests.flows.conftest import Finished, Line, values

ENDPOINT, MODEL = "slimline-tiny", "slimline-tiny"
TINY = (
    "model.source=tiny",
    'data={"source": "python-docs", "block_tokens": 64, "calibration_blocks": 16, "training_blocks": 16, '
    '"evaluation_blocks": 16}',
    "recipe.quantize.bits=8",
    "recipe.name=eight",
    "gate.max_bytes_ratio=0.6",
    f"registered_name={MODEL}",
)


def arguments(*parameters: str) -> list[str]:
    return [argument for parameter in parameters for argument in ("-p", parameter)]


@pytest.fixture(scope="module")
def challenger(line: Line) -> str:
    """The number of a version that is not served yet, beside a champion that is."""
    if line.alias(MODEL, "champion") is None or not line.serving(ENDPOINT):
        served = line.slimline("run", "tiny")
        assert served.code == 0, served.text
    made = line.slimline("run", "compress-only", *arguments(*TINY))
    assert made.code == 0, made.text
    number = line.alias(MODEL, "challenger")
    assert number and number != line.alias(MODEL, "champion")
    return number


def paused(line: Line, seconds: float = 180) -> dict[str, Any]:
    """The run that waits for a person."""
    deadline = time.monotonic() + seconds
    while True:
        runs = line.prefect("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["PAUSED"]}}})
        if runs:
            found: dict[str, Any] = runs[0]
            return found
        assert time.monotonic() < deadline, "no release has asked for an approval"
        time.sleep(0.5)


def say_yes(line: Line, run_id: str, reason: str) -> None:
    """In the form on the run's page where there is a browser; else as that form does."""
    if FOUND:
        with browser() as page:
            approve(page, line.stack.prefect_url, run_id, reason)
        return
    answer = line.prefect(f"flow_runs/{run_id}/resume", run_input={"approve": True, "reason": reason})
    assert answer["status"] == "ACCEPT", answer


def test_a_shadow_is_proven_approved_and_becomes_the_champion(line: Line, challenger: str) -> None:
    parameters = arguments("plan.approve=true", "plan.rehearsal.requests_per_second=20", "plan.bake_seconds=120")
    ended: list[Finished] = []
    releasing = threading.Thread(
        target=lambda: ended.append(line.slimline("run", "release-shadow", *parameters, timeout=300))
    )
    before = line.serving(ENDPOINT)
    releasing.start()
    try:
        run = paused(line)
        evidence = line.artifacts(run["id"])["evidence"]["data"]
        assert "every metric is within what is tolerated" in evidence and "| agreement |" in evidence
        say_yes(line, run["id"], "the pairs read well")
    finally:
        releasing.join(timeout=300)
    done = ended[0]
    assert done.code == 0, done.text
    assert line.serving(ENDPOINT) != before and f"v{challenger}-" in line.serving(ENDPOINT)
    assert line.alias(MODEL, "champion") == challenger and line.alias(MODEL, "challenger") is None
    for task in ("pick", "begin", "try-0%", "judge-again", "shift-ALL_AT_ONCE", "watch", "end-shadow"):
        assert task in done.text, done.text

    artifacts = line.artifacts(done.flow_run_id)
    assert "a person said: the pairs read well" in artifacts["release"]["data"]
    steps = values(artifacts["rollout-steps"])
    assert any("agreement" in str(row.get("judge")) for row in steps), steps
    assert len(values(artifacts["shadow-pairs"])) > 5
    run_id = line.mlflow_version(MODEL, challenger)["run_id"]
    metrics = {metric["key"]: metric["value"] for metric in line.mlflow_run(run_id)["data"]["metrics"]}
    assert metrics["shadow_pairs"] >= len(values(artifacts["shadow-pairs"]))
    assert 0 <= metrics["shadow_agreement"] <= 1
    assert "shadow" in {file["path"] for file in line.mlflow_get("artifacts/list", run_id=run_id)["files"]}


@pytest.mark.parametrize("said", [None, "not on a Friday"])
def test_without_a_persons_yes_no_traffic_moves(line: Line, challenger: str, said: str | None) -> None:
    before, champion = line.serving(ENDPOINT), line.alias(MODEL, "champion")
    other = "1" if champion != "1" else challenger
    seconds = 600 if said else 10
    parameters = arguments(f'version="{other}"', "plan.approve=true", f"plan.approve_seconds={seconds}")
    ended: list[Finished] = []
    releasing = threading.Thread(target=lambda: ended.append(line.slimline("run", "release-canary", *parameters)))
    releasing.start()
    try:
        run = paused(line)
        if said:
            no = line.prefect(f"flow_runs/{run['id']}/resume", run_input={"approve": False, "reason": said})
            assert no["status"] == "ACCEPT"
    finally:
        releasing.join(timeout=300)
    assert ended[0].code == 3 and "ReleaseRestored" in ended[0].text, ended[0].text
    assert f"not approved: {said or 'nobody answered within 10 s'}" in ended[0].text
    assert (line.serving(ENDPOINT), line.alias(MODEL, "champion")) == (before, champion)


def test_a_version_that_is_not_there_is_refused(line: Line, challenger: str) -> None:
    refused = line.slimline("run", "release-weights", "-p", "version=no-such-alias")
    assert refused.code == 1
    assert "RefusedModel" in refused.text and "champion, challenger, previous" in refused.text
