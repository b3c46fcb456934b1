"""A run that a person cancels on its page, as Prefect's button does it: it stops, and says so wherever it is seen."""

from __future__ import annotations

import time
from typing import Any

from tests.flows.conftest import Line
from tests.flows.test_killed_release import until, worker_child

NAME = "cancelled"
# A student that learns for long enough to be stopped at it.
PARAMETERS: dict[str, Any] = {
    "model": {"source": "tiny"},
    "data": {"source": "python-docs", "block_tokens": 64, "calibration_blocks": 8, "training_blocks": 64,
             "evaluation_blocks": 8},
    "recipe": {"name": NAME, "order": ["quantize", "distill"], "distill": {"epochs": 100, "batch_blocks": 1}},
    "registered_name": NAME,
}  # fmt: skip


def test_a_cancelled_run_stops_and_says_so_in_prefect_and_in_mlflow(line: Line) -> None:
    deployment = next(each for each in line.prefect("deployments/filter") if each["name"] == "compress-only")
    created = line.prefect(
        f"deployments/{deployment['id']}/create_flow_run", parameters=PARAMETERS, idempotency_key=str(time.time())
    )
    run = str(created["id"])
    engine = until(lambda: worker_child(run))
    until(lambda: "distill" in line.task_runs(run))
    stage = until(lambda: [each for each in engine.children(recursive=True) if "child" in " ".join(each.cmdline())])
    (tracked,) = line.mlflow("runs/search", experiment_ids=["1"], filter=f"tags.`slimline.recipe` LIKE '%{NAME}%'")[
        "runs"
    ]
    assert tracked["info"]["status"] == "RUNNING"

    line.prefect(f"flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    state = until(lambda: (found := line.prefect_get(f"flow_runs/{run}")["state"])["name"] == "Cancelled" and found, 60)
    assert state["type"] == "CANCELLED"
    until(lambda: not engine.is_running() and not any(each.is_running() for each in stage), 30)
    assert line.mlflow_run(tracked["info"]["run_id"])["info"]["status"] == "KILLED"
    assert "distill-losses" not in line.artifacts(run), "a stage that did not end has no table"
    assert line.alias(NAME, "challenger") is None
