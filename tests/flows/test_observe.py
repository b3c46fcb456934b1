"""A promoted version begins to answer late: the observation finds it, and the automation brings the old one back."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tasks.serving.traffic import send_traffic
from tests.flows.conftest import Line

ENDPOINT, MODEL = "slimline-observed", "slimline-observed"
RATE, WINDOW = 8.0, 14  # requests a second of ours; minutes of the service's clock, as many seconds of ours
# What two windows of some hundred requests show on a machine that does other things too; the rehearsed rise is more.
RULES = (
    f"rules.window_minutes={WINDOW}", "rules.min_requests=60", "rules.latency_quantile=0.5", "rules.latency_ratio=8",
    "rules.answer_tokens=4", "rules.error_points=0.2", "rules.max_error_rate=0.3",
)  # fmt: skip


def arguments(*parameters: str) -> list[str]:
    return [argument for parameter in parameters for argument in ("-p", parameter)]


@pytest.fixture(scope="module")
def promoted(line: Line) -> str:
    """The config of a version of its own on an endpoint of its own; every stage before that is cached."""
    made = line.slimline(
        "run", "tiny",
        *arguments(
            f"registered_name={MODEL}", f"plan.endpoint={ENDPOINT}", "plan.monitoring.capture_percent=50",
            "plan.monitoring.max_p90_ms=400", "plan.monitoring.minutes=3", "plan.monitoring.breaching=2",
        ),
    )  # fmt: skip
    assert made.code == 0, made.text
    standing = line.artifacts(made.flow_run_id)["monitoring"]["data"]
    assert f"{ENDPOINT}-standing-p90" in standing and f"capture://{ENDPOINT}" in standing
    return line.serving(ENDPOINT)


@contextmanager
def asking(line: Line) -> Iterator[None]:
    stop, runtime = threading.Event(), line.client("sagemaker-runtime")

    def send(prompt: str) -> int:
        body = json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": 4}})
        try:
            runtime.invoke_endpoint(EndpointName=ENDPOINT, ContentType="application/json", Body=body)
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    prompts = [f"The import statement number {number}" for number in range(50)]
    sender = threading.Thread(target=send_traffic, args=(send, prompts, RATE, stop, 900.0), daemon=True)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join(timeout=60)


@contextmanager
def late(line: Line, seconds: float, config: str) -> Iterator[None]:
    address = f"{line.stack.endpoint_url}/_slimline/faults"
    fault = {"kind": "latency", "endpoint": ENDPOINT, "config": config, "seconds": seconds}
    added = httpx.post(address, json=fault, timeout=10).json()["id"]
    try:
        yield
    finally:
        httpx.delete(f"{address}/{added}", timeout=10)


def restored(line: Line, config: str, seconds: float = 240) -> dict[str, Any]:
    """The restore that the automation began, once it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        found = line.prefect("flow_runs/filter", flows={"name": {"any_": ["restore"]}})
        ours = [run for run in found if run["parameters"].get("degraded_config") == config]
        if ours and ours[0]["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"):
            run: dict[str, Any] = ours[0]
            return run
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_its_schedule_is_there_and_off(line: Line) -> None:
    (deployment,) = [each for each in line.prefect("deployments/filter") if each["name"] == "observe"]
    assert [(each["active"], each["schedule"]["cron"]) for each in deployment["schedules"]] == [(False, "*/30 * * * *")]


def test_without_requests_there_is_no_verdict_and_the_terminal_says_so_by_its_code(line: Line, promoted: str) -> None:
    later = f"{line.stack.endpoint_url}/_slimline/faults"
    httpx.post(later, json={"kind": "clock_jump", "seconds": 7200}, timeout=10)  # what the release saw is long ago
    seen = line.slimline("observe", ENDPOINT, "--json", "--window", "30")
    found = json.loads(seen.text[seen.text.index("{") :])
    assert seen.code == 4 and found["state"] == "no data", seen.text
    assert found["version"] == f"{MODEL} {line.alias(MODEL, 'champion')}" and found["config"] == promoted
    assert found["promise"]["latency_ms"] > 0 and set(found["alarms"]) >= {"errors", "p90", "p99", "cpu"}
    assert line.slimline("observe", "slimline-nowhere").code == 1


@pytest.mark.timeout(900)
def test_a_latency_that_rises_is_found_and_the_version_before_comes_back_by_itself(line: Line, promoted: str) -> None:
    with asking(line):
        time.sleep(2 * WINDOW + 5)  # two windows at 60 times the wall clock
        well = line.slimline(
            "run", "observe", *arguments(f"endpoint={ENDPOINT}", "rules.act=restore", "rules.scorecard_ratio=0", *RULES)
        )
        assert well.code == 0 and f"{ENDPOINT}: healthy" in well.text, well.text
        assert line.prefect_get(f"flow_runs/{well.flow_run_id}")["state_name"] == "Healthy"
        with late(line, 0.6, promoted):
            time.sleep(WINDOW / 2)
            # A slow machine may be late itself, when the window before is late too: the scorecard's promise is not.
            late_rules = (*RULES, "rules.act=restore", "rules.scorecard_ratio=10")
            bad = line.slimline("run", "observe", *arguments(f"endpoint={ENDPOINT}", *late_rules))
            assert bad.code == 3 and f"{ENDPOINT}: degraded" in bad.text, bad.text
            assert line.prefect_get(f"flow_runs/{bad.flow_run_id}")["state_name"] == "Degraded"
            seen = line.slimline("observe", ENDPOINT, "--window", str(WINDOW), "--min-requests", "60")
            assert seen.code == 3 or line.serving(ENDPOINT) != promoted, seen.text
            run = restored(line, promoted)
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert line.serving(ENDPOINT) != promoted and "voriginal" in line.serving(ENDPOINT)
    version = "1"
    assert line.alias(MODEL, "champion") is None
    assert "restored" in str(line.mlflow_version(MODEL, version)["tags"])

    artifacts = line.artifacts(bad.flow_run_id)
    assert "sets off: restore" in artifacts["observed"]["data"]
    image = re.search(r"\(data:image/svg\+xml;base64,([^)]+)\)", artifacts["observed-timeline"]["data"])
    assert image and "DEGRADED" in base64.b64decode(image[1]).decode()
    run_id = line.mlflow_version(MODEL, version)["run_id"]
    kept = [each["path"] for each in line.mlflow_get("artifacts/list", run_id=run_id, path="observations")["files"]]
    assert any("degraded" in path for path in kept) and any("healthy" in path for path in kept)
    metrics = {metric["key"] for metric in line.mlflow_run(run_id)["data"]["metrics"]}
    assert {"observed_latency_ms", "observed_requests", "observed_degraded"} <= metrics


def test_a_late_call_for_a_restore_moves_nothing(line: Line, promoted: str) -> None:
    """By now another config serves: what was observed of the one before says nothing about it."""
    before = line.serving(ENDPOINT)
    done = line.slimline("run", "restore", *arguments(f"endpoint={ENDPOINT}", f"degraded_config={promoted}"), "--json")
    assert done.code == 0 and "serves no more" in done.text, done.text
    told = json.loads(done.out)
    assert told["exit_code"] == 0 and told["run"]["id"] in told["run"]["url"] and "✓" not in done.text
    assert line.serving(ENDPOINT) == before


def test_what_users_asked_is_the_next_models_text(line: Line, promoted: str) -> None:
    with asking(line):  # the release's rehearsal, which was captured too, is no user
        time.sleep(5)
    made = line.slimline(
        "run", "compress-only",
        *arguments(
            "model.source=tiny",
            f"data.source=capture://{ENDPOINT}", "data.block_tokens=16", "data.calibration_blocks=2",
            "data.training_blocks=2", "data.evaluation_blocks=2", 'recipe.order=["quantize"]', "recipe.name=heard",
            "gate.max_bytes_ratio=0.6", "gate.max_perplexity_ratio=50", "gate.min_agreement=0",
            f"registered_name={MODEL}",
        ),
    )  # fmt: skip
    assert made.code == 0, made.text
    run_id = line.mlflow_version(MODEL, line.alias(MODEL, "challenger") or "")["run_id"]
    inputs = line.mlflow_run(run_id)["inputs"]["dataset_inputs"]
    names = {each["dataset"]["name"] for each in inputs}
    assert names == {f"captures-of-{ENDPOINT}/{part}" for part in ("calibration", "training", "evaluation")}
