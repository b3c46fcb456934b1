"""A schedule that fires: new text becomes a version that serves; fired again with nothing new, the run ends at once."""

from __future__ import annotations

import importlib
import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.texts import python_docs
from tests.flows.conftest import Line, values

ENDPOINT = MODEL = "slimline-tiny"  # the champion of the tests before this file, which runs last of those that ask
NEW = ("argparse", "bisect", "codeop", "csv", "datetime", "difflib", "enum", "heapq", "json", "random", "statistics")
INTERVAL, SOON = 30, 7  # seconds: between two firings; until the first, by when the scheduler has looked
ENDED = ("COMPLETED", "FAILED", "CRASHED")


def write(folder: Path, name: str, documents: Iterable[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))


@pytest.fixture(scope="module")
def champion(line: Line) -> str:
    """The number of a version that serves, made from python-docs."""
    if line.alias(MODEL, "champion") is None:
        made = line.slimline("run", "tiny")
        assert made.code == 0, made.text
    return str(line.alias(MODEL, "champion"))


def parameters(folder: Path) -> dict[str, Any]:
    """As cheap as it goes: few steps, one stage, one instance, no bake worth the name."""
    data = {"source": str(folder), "block_tokens": 32, "calibration_blocks": 4, "training_blocks": 8}
    return {
        "data": {**data, "evaluation_blocks": 8},
        "retraining": {"min_new_documents": len(NEW)},
        "training": {"epochs": 2, "learning_rate": 0.001, "max_steps": 3},
        "recipe": {"name": "scheduled", "order": ["quantize"], "quantize": {"method": "rtn", "bits": 8}},
        "gate": {"baseline": "both", "min_agreement": 0.5, "max_bytes_ratio": 0.6, "max_champion_ratio": 2,
                 "max_champion_accuracy_drop": 0.5},
        "plan": {"endpoint": ENDPOINT, "mode": "ALL_AT_ONCE", "instances": 1, "bake_seconds": 60,
                 "original_first": False, "max_error_rate": 0.2, "min_requests": 1,
                 "judge": {"promote": False, "harmless": 1}, "rehearsal": {"requests_per_second": 5}},
        "registered_name": MODEL,
    }  # fmt: skip


def fired(line: Line, deployment: str, given: dict[str, Any]) -> dict[str, Any]:
    """The run that a new schedule of the deployment makes, once it has ended. The schedule goes when the run begins."""
    (found,) = [each for each in line.prefect("deployments/filter") if each["name"] == deployment]
    address = f"deployments/{found['id']}"
    schedule = {"interval": INTERVAL, "anchor_date": later(SOON), "timezone": "UTC"}
    body = [{"schedule": schedule, "active": True, "parameters": given}]
    made = line.ask_prefect("POST", f"{address}/schedules", body)
    line.ask_prefect("PATCH", address, {"paused": False})  # changed: looked at within 5 s, not 60
    try:
        run = wait_for(line, found["id"], made[0]["created"], lambda state: state != "SCHEDULED")
    finally:
        line.ask_prefect("DELETE", f"{address}/schedules/{made[0]['id']}")
    return wait_for(line, found["id"], made[0]["created"], lambda state: state in ENDED, run["id"])


def wait_for(
    line: Line,
    deployment: str,
    since: str,
    wanted: Callable[[str], bool],
    run: str = "",
    seconds: float = 240,
) -> dict[str, Any]:
    """A run of the deployment that a schedule has made after ``since`` and whose state is wanted."""
    deadline = time.monotonic() + seconds
    while True:
        found = line.prefect("flow_runs/filter", deployments={"id": {"any_": [deployment]}})
        for each in found:
            ours = each["auto_scheduled"] and each["created"] > since and run in ("", each["id"])
            if ours and wanted(each["state"]["type"]):
                ended: dict[str, Any] = each
                return ended
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def stops_before_anything_is_compressed(line: Line, given: dict[str, Any]) -> None:
    """A training that gains less than was asked for. Another seed: the schedule's run trains for itself."""
    asked = {
        **given,
        "training": given["training"] | {"seed": 1},
        "retraining": given["retraining"] | {"min_gain": 0.5},
    }
    arguments = [text for name, value in asked.items() for text in ("-p", f"{name}={json.dumps(value)}")]
    versions = line.version_count(MODEL)
    stopped = line.slimline("run", "retrain-tiny", *arguments)
    assert stopped.code == 3 and "the training did not lower the perplexity as far as was asked" in stopped.text
    assert line.version_count(MODEL) == versions
    done = line.task_runs(stopped.flow_run_id)
    assert "train" in done and not {"quantize", "export", "evaluate", "register"} & done.keys()
    verdict = line.artifacts(stopped.flow_run_id)["verdict"]["data"]
    assert (
        verdict.startswith("# Gate: FAILED\nTraining lowered the perplexity by ") and "| trained: tiny-tuned" in verdict
    )
    assert "50.0% was asked for; nothing was compressed." in verdict
    run = line.mlflow_run(re.findall(r"/runs/([0-9a-f]{32})", verdict)[0])
    figures = {each["key"]: each["value"] for each in run["data"]["metrics"]}
    assert run["info"]["status"] == "FAILED" and 0 < figures["training_perplexity_fall"] < 0.5
    assert figures["gate_passed"] == 0


@pytest.mark.timeout(600)
def test_a_schedule_fires_finds_new_data_and_serves_it_and_fires_again_and_says_that_there_is_none(
    line: Line, champion: str, tmp_path: Path
) -> None:
    folder, old = tmp_path / "texts", python_docs().documents
    write(folder, "known.jsonl", old)
    write(folder, "new.jsonl", (str(importlib.import_module(name).__doc__) for name in NEW))
    given = parameters(folder)
    stops_before_anything_is_compressed(line, given)
    trained = fired(line, "retrain-tiny", given)

    assert trained["state"]["name"] == "Completed", trained["state"]
    version = str(line.alias(MODEL, "champion"))
    assert int(version) > int(champion) and f"-v{version}-" in line.serving(ENDPOINT)
    reply = line.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=ENDPOINT, ContentType="application/json", Body=json.dumps({"inputs": "The import statement"})
    )
    assert json.loads(reply["Body"].read())[0]["generated_text"]
    artifacts = line.artifacts(trained["id"])
    assert artifacts["new-data"]["data"].startswith(f"# {len(NEW)} new documents\n")
    assert artifacts["train-progress"]["data"] == 100.0 and len(values(artifacts["train-losses"])) == 3
    verdict = artifacts["verdict"]["data"]
    assert f"Held against the champion too: {MODEL} {champion}. It was made from another original" in verdict
    assert "agreement lost against the champion" not in verdict and "true next tokens lost against" in verdict
    for row in ("before training: tiny", "trained: tiny-tuned", "compressed, as served: ", f"champion: {MODEL}"):
        assert f"| {row}" in verdict, verdict

    (seen,) = json.loads(line.slimline("lineage", f"{MODEL}/{version}", "--json").text)
    assert seen["facts"]["follows"] == f"{MODEL} {champion}"
    made = next(node for node in seen["children"] if node["kind"] == "run")
    assert [node["title"] for node in made["children"] if node["kind"] == "stage"] == ["train", "quantize", "export"]
    (base,) = [node for node in made["children"] if node["title"] == "trained from: tiny"]
    assert base["facts"]["new documents"] == str(len(NEW))

    write(folder, "later.jsonl", ["This came after the version was made, and is no part of it."])
    again = line.slimline("reproduce", MODEL, version)
    assert again.code == 0 and "reproduced bit for bit by 1 re-run" in again.text, again.text
    for stage in ("fetch-new", "train", "quantize"):
        assert not again.line(stage).endswith("cached"), again.text
    page = line.artifacts(again.flow_run_id)["reproduction"]["data"]
    assert "had the same bytes in 1 of 1 re-runs" in page and "| original: perplexity |" in page, page
    (folder / "later.jsonl").unlink()

    nothing, versions = fired(line, "retrain-tiny", given), line.version_count(MODEL)
    assert (nothing["state"]["type"], nothing["state"]["name"]) == ("COMPLETED", "Skipped")
    said = line.artifacts(nothing["id"])["skipped"]["data"]
    assert f"No document of the {len(old) + len(NEW)} documents" in said, said
    assert f"new since {MODEL} {version} (champion); at least {len(NEW)} are asked for" in said, said
    assert nothing["state"]["message"].lower() in said.lower()
    assert not {"train", "import_source", "register"} & line.task_runs(nothing["id"]).keys()
    assert line.version_count(MODEL) == versions and f"-v{version}-" in line.serving(ENDPOINT)
