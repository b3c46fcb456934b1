"""A retraining whose process is killed under the worker: in its training, and between its registration and its release.

The next run goes on each time, and what it ends with is what a training that nobody killed ends with. Minutes, on two
cores that other tests use too: it runs with ``--kills 2`` or more, as ``test_killed_release.py`` has its long form.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.local.stack import ROOT
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.compression.resuming import Partial
from tasks.compression.training_loop import StepResult
from tasks.retrain_plan import Training
from tasks.settings import settings
from tasks.stage_child import StageChild
from tests.flows.conftest import Line
from tests.flows.test_killed_release import until, worker_child

ENDPOINT = MODEL = "killed-retraining"
# Steps of milliseconds, each kept: seconds in which to be killed.
TRAINING = {"epochs": 12, "batch_blocks": 1, "learning_rate": 1e-4, "save_steps": 1}
BLOCKS = 8
STEPS = 12 * BLOCKS
PARAMETERS: dict[str, Any] = {
    "model": {"source": "tiny"},
    "data": {"source": "python-docs", "block_tokens": 32, "calibration_blocks": 4, "training_blocks": BLOCKS,
             "evaluation_blocks": 8},
    "training": TRAINING,
    "recipe": {"name": "killed", "order": ["quantize"], "quantize": {"method": "rtn", "bits": 8}},
    "gate": {"baseline": "both", "min_agreement": 0.5, "max_bytes_ratio": 0.6},
    "plan": {"endpoint": ENDPOINT, "mode": "ALL_AT_ONCE", "instances": 1, "original_first": False, "min_requests": 0,
             "judge": {"promote": False}, "rehearsal": {"requests_per_second": 0}},
    "registered_name": MODEL,
}  # fmt: skip


@pytest.fixture(scope="module")
def deployment(line: Line, request: pytest.FixtureRequest) -> str:
    if request.config.getoption("kills") < 2:
        pytest.skip("takes minutes: python -m pytest tests/flows/test_killed_retraining.py --kills 2")
    preset = next(each for each in line.prefect("deployments/filter") if each["name"] == "retrain-tiny")
    made = line.prefect(
        "deployments/", name=MODEL, flow_id=preset["flow_id"], work_pool_name="slimline", path=str(ROOT),
        entrypoint="flows/retrain_and_release.py:retrain_and_release", parameters=PARAMETERS,
    )  # fmt: skip
    return str(made["id"])


def begin(line: Line, deployment: str) -> tuple[str, psutil.Process]:
    """A run of it under the stack's worker, and the process that executes it."""
    run = str(line.prefect(f"deployments/{deployment}/create_flow_run", idempotency_key=str(time.time()))["id"])
    return run, until(lambda: worker_child(run))


def soon(look: Callable[[], Any], process: psutil.Process) -> Any:
    """As ``until``, looking often enough not to miss the moment, and no longer than the process lives."""
    while not (found := look()):
        assert process.is_running(), "it ended before the moment came"
        time.sleep(0.02)
    return found


def kept_steps(line: Line) -> int:
    """Of the training that is under way, as its progress file says."""
    for file in (line.stack.home / "store" / "staging").glob("train-*/partial/progress.json"):
        return int(json.loads(file.read_text())["done"])
    return 0


def said(line: Line, run: str) -> str:
    logs = line.prefect("logs/filter", logs={"flow_run_id": {"any_": line.family(run)}}, limit=200)
    return "\n".join(each["message"] for each in logs)


@pytest.mark.timeout(600)
def test_a_retraining_killed_twice_is_brought_to_its_end_by_the_next_runs(
    line: Line, deployment: str, tmp_path: Path
) -> None:
    _, victim = begin(line, deployment)
    at = soon(lambda: (done := kept_steps(line)) > 8 and done, victim)
    victim.kill()
    assert at < STEPS and line.alias(MODEL, "challenger") is None

    second, victim = begin(line, deployment)
    soon(lambda: line.alias(MODEL, "challenger"), victim)
    victim.kill()
    victim.wait(timeout=30)
    assert "train goes on after" in said(line, second)
    assert line.alias(MODEL, "champion") is None and line.family(second) == [second], "its release had begun"

    third, _ = begin(line, deployment)
    state = until(lambda: ended(line, third))
    assert state["type"] == "COMPLETED", state
    assert line.task_runs(third)["train"]["state"]["name"] == "Cached"
    assert line.version_count(MODEL) == 1 and line.alias(MODEL, "champion") == "1"
    assert line.serving(ENDPOINT).startswith(f"{ENDPOINT}-v1-")
    assert trained_digest(line) == undisturbed(line, third, tmp_path)


def ended(line: Line, run: str) -> dict[str, Any] | None:
    state: dict[str, Any] = line.prefect_get(f"flow_runs/{run}")["state"]
    return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED") else None


def trained_digest(line: Line) -> str:
    tags = line.mlflow_version(MODEL, "1")["tags"]
    return str(next(tag["value"] for tag in tags if tag["key"] == "slimline.trained_digest"))


def undisturbed(line: Line, run: str, folder: Path) -> str:
    """The digest of the same training in one go, away from the stack's store."""
    store = Store(line.stack.home / "store")
    data = next(
        each["parameters"]["data"]
        for each in line.prefect("flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run]}})
    )
    tags = line.mlflow_run(line.mlflow_version(MODEL, "1")["run_id"])["data"]["tags"]
    base = next(tag["value"] for tag in tags if tag["key"] == "slimline.trained_from_digest")
    import torch

    tokens = torch.from_numpy(read_dataset(store.open(data["uri"], data["digest"])).splits.training).long()
    arguments = Training.model_validate(TRAINING).model_dump(mode="json")
    with Store(folder).draft("models") as draft:
        folders = store.open(f"models/{base}", base), draft.path
        partial = Partial(folder / "partial")
        made = StageChild(settings().threads).run("finetune_folder", folders, tokens, arguments, partial, StepResult)
        assert len(list(made)) == STEPS
    return draft.stored.digest
