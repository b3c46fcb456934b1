"""A schedule that fires: new text becomes a version that serves; fired again with nothing new, the run ends at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.adapters.texts import python_docs
from tests.flows.conftest import Line, values

ENDPOINT = MODEL = "slimline-scheduled"
INTERVAL = 40  # seconds, about what a run with something to do takes
OLD, NEW = 50, 20  # documents


def write(folder: Path, name: str, documents: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))


def parameters(folder: Path) -> dict[str, Any]:
    """As cheap as it goes: few steps, one stage, one instance, no bake worth the name."""
    data = {"source": str(folder), "block_tokens": 32, "calibration_blocks": 4, "training_blocks": 8}
    return {
        "data": {**data, "evaluation_blocks": 8},
        "retraining": {"min_new_documents": 10},
        "training": {"epochs": 2, "learning_rate": 0.001, "max_steps": 3},
        "recipe": {"name": "scheduled", "order": ["quantize"], "quantize": {"method": "rtn", "bits": 8}},
        "gate": {"baseline": "both", "min_agreement": 0.5, "max_bytes_ratio": 0.6, "max_champion_ratio": 2,
                 "max_champion_agreement_drop": 0.5},
        "plan": {"endpoint": ENDPOINT, "mode": "ALL_AT_ONCE", "instances": 1, "bake_seconds": 60,
                 "original_first": False, "max_error_rate": 0.2, "min_requests": 1,
                 "judge": {"promote": False, "harmless": 1}, "rehearsal": {"requests_per_second": 5}},
        "registered_name": MODEL,
    }  # fmt: skip


@contextmanager
def scheduled(line: Line, deployment: str, given: dict[str, Any]) -> Iterator[str]:
    """A schedule of the deployment, made through Prefect's API; what it has not begun is gone with it."""
    (found,) = [each for each in line.prefect("deployments/filter") if each["name"] == deployment]
    address = f"{line.stack.prefect_url}/api/deployments/{found['id']}/schedules"
    begin = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    schedule = {"interval": INTERVAL, "anchor_date": begin, "timezone": "UTC"}
    made = httpx.post(address, json=[{"schedule": schedule, "active": True, "parameters": given}], timeout=30)
    made.raise_for_status()
    try:
        yield str(found["id"])
    finally:
        httpx.delete(f"{address}/{made.json()[0]['id']}", timeout=30)
        for run in fired(line, str(found["id"])):
            if run["state"]["type"] == "SCHEDULED":
                httpx.delete(f"{line.stack.prefect_url}/api/flow_runs/{run['id']}", timeout=30)


def fired(line: Line, deployment: str) -> list[dict[str, Any]]:
    """The runs that schedules of the deployment have made, in the order in which they were due."""
    found = line.prefect("flow_runs/filter", deployments={"id": {"any_": [deployment]}})
    return sorted((run for run in found if run["auto_scheduled"]), key=lambda run: str(run["expected_start_time"]))


def ended(line: Line, deployment: str, count: int, seconds: float = 240) -> list[dict[str, Any]]:
    """The first ``count`` runs of the schedule, once they have ended."""
    deadline = time.monotonic() + seconds
    while True:
        done = [run for run in fired(line, deployment) if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")]
        if len(done) >= count:
            return done
        assert time.monotonic() < deadline, fired(line, deployment)
        time.sleep(0.5)


@pytest.mark.timeout(600)
def test_a_schedule_fires_finds_new_data_and_serves_it_and_fires_again_and_says_that_there_is_none(
    line: Line, tmp_path: Path
) -> None:
    folder, documents = tmp_path / "texts", python_docs().documents
    write(folder, "2026-11.jsonl", documents[:OLD])
    arguments = [text for name, value in parameters(folder).items() for text in ("-p", f"{name}={json.dumps(value)}")]
    first = line.slimline("run", "retrain-tiny", *arguments)
    assert first.code == 0 and f"All {OLD} documents" in first.text, first.text
    assert line.alias(MODEL, "champion") == "1"

    write(folder, "2026-12.jsonl", documents[OLD : OLD + NEW])
    with scheduled(line, "retrain-tiny", parameters(folder)) as deployment:
        trained, nothing = ended(line, deployment, 2)[:2]

    assert trained["state"]["name"] == "Completed", trained["state"]
    assert line.alias(MODEL, "champion") == "2" and "-v2-" in line.serving(ENDPOINT)
    reply = line.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=ENDPOINT, ContentType="application/json", Body=json.dumps({"inputs": "The import statement"})
    )
    assert json.loads(reply["Body"].read())[0]["generated_text"]
    artifacts = line.artifacts(trained["id"])
    assert artifacts["new-data"]["data"].startswith(f"# {NEW} new documents\n")
    assert artifacts["train-progress"]["data"] == 100.0 and len(values(artifacts["train-losses"])) == 3
    assert f"Held against the champion too: {MODEL} 1" in artifacts["verdict"]["data"]

    version = json.loads(line.slimline("lineage", f"{MODEL}/2", "--json").text)[0]
    assert version["facts"]["follows"] == f"{MODEL} 1"
    made = next(node for node in version["children"] if node["kind"] == "run")
    assert [node["title"] for node in made["children"] if node["kind"] == "stage"] == ["train", "quantize", "export"]
    (base,) = [node for node in made["children"] if node["title"] == "trained from: tiny"]
    assert base["facts"]["new documents"] == str(NEW)

    assert (nothing["state"]["type"], nothing["state"]["name"]) == ("COMPLETED", "Skipped")
    said = line.artifacts(nothing["id"])["skipped"]["data"]
    assert f"No document of the {OLD + NEW} documents" in said and "at least 10 are asked for" in said, said
    assert nothing["state"]["message"].lower() in said.lower()
    assert not {"train", "locate", "register"} & line.task_runs(nothing["id"]).keys()
    assert nothing["total_run_time"] < 10 and line.version_count(MODEL) == 2
