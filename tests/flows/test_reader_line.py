"""The question-answering line through real servers: a teacher, a student of one block, the gate, the registry."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tasks.compression.synthetic_questions import make_questions
from tasks.reader_contracts import QUESTION_SPLITS
from tests.flows.conftest import Finished, Line, values

MODEL = "slimline-reader"
SMALL = ("-p", "data.teaching=640", "-p", "data.training=160", "-p", "data.evaluation=100")
STAGES = ("fetch-questions", "train-teacher", "drop-blocks", "teach-reader", "evaluate-tiny-reader")


@pytest.fixture(scope="module")
def taught(line: Line) -> Finished:
    return line.slimline("run", "reader", *SMALL)


def test_a_reader_is_distilled_and_registered(line: Line, taught: Finished) -> None:
    assert taught.code == 0, taught.text
    for stage in (*STAGES, "register"):
        assert taught.line(stage)
    assert "exact match" in taught.text and "untaught" in taught.text and "F1 drop" in taught.text
    version = line.mlflow_version(MODEL, line.alias(MODEL, "challenger") or "")
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["slimline.architecture"] == "BertForQuestionAnswering" and float(tags["slimline.f1"]) > 0.5
    run = line.mlflow_run(version["run_id"])
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["candidate_f1"] > metrics["before_f1"] + 0.05, "it was taught something"
    assert metrics["baseline_f1"] - metrics["candidate_f1"] == pytest.approx(metrics["f1_drop"])
    assert metrics["f1_drop"] <= metrics["f1_drop_upper"] <= 0.05
    inputs = run["inputs"]["dataset_inputs"]
    assert {each["dataset"]["name"]: each["tags"][0]["value"] for each in inputs} == {
        f"synthetic/{part}": part for part in QUESTION_SPLITS
    }


def test_its_pages_show_progress_losses_and_the_verdict(line: Line, taught: Finished) -> None:
    artifacts = line.artifacts(taught.flow_run_id)
    for stage in ("train-teacher", "teach-reader", "evaluate-reader"):
        assert artifacts[f"{stage}-progress"]["data"] == 100.0
    assert len(values(artifacts["teach-reader-losses"])) == 20, "160 questions, 16 a step, two epochs"
    assert "Gate: PASSED" in artifacts["verdict"]["data"] and "held-out questions" in artifacts["verdict"]["data"]


def test_its_report_is_in_mlflow_and_linked_from_its_run(line: Line, taught: Finished) -> None:
    artifacts = line.artifacts(taught.flow_run_id)
    run_id = line.mlflow_version(MODEL, "1")["run_id"]
    assert f"runs/{run_id}/artifacts/report/report.html" in artifacts["report"]["data"]
    where = {"path": "report/report.html", "run_uuid": run_id}
    page = httpx.get(f"{line.stack.mlflow_url}/get-artifact", params=where).text
    for said in ("gate passed", "held-out questions", "the teacher, 100 %", f"{MODEL} version 1", "train-teacher"):
        assert said in page, said
    assert "trained from: tiny-reader" in artifacts["lineage"]["data"]


def test_it_is_made_again_bit_for_bit_without_the_cache(line: Line, taught: Finished) -> None:
    versions = line.version_count(MODEL)
    again = line.slimline("reproduce", MODEL, "1")
    assert again.code == 0 and "reproduced bit for bit by 1 re-run" in again.text, again.text
    for stage in STAGES:
        assert not again.line(stage).endswith("cached"), again.text
    page = line.artifacts(again.flow_run_id)["reproduction"]["data"]
    assert "| teacher: F1 |" in page and "had the same bytes in 1 of 1 re-runs" in page, page
    assert line.version_count(MODEL) == versions


def test_another_gate_computes_nothing_again_and_stops_before_registering(line: Line, taught: Finished) -> None:
    versions = line.version_count(MODEL)
    stopped = line.slimline("run", "reader", *SMALL, "-p", "gate.max_bytes_ratio=0.2")
    assert stopped.code == 3 and "GateFailed" in stopped.text and "fewer blocks" in stopped.text
    for stage in STAGES:
        assert stopped.line(stage).endswith("cached"), stopped.text
    assert line.version_count(MODEL) == versions
    assert "report" in line.artifacts(stopped.flow_run_id), "one that the gate stopped has a report too"
    family = " or ".join(f"tags.`slimline.prefect_run_url` LIKE '%{run}%'" for run in line.family(stopped.flow_run_id))
    experiment = line.mlflow_run(line.mlflow_version(MODEL, "1")["run_id"])["info"]["experiment_id"]
    found = line.mlflow("runs/search", experiment_ids=[experiment], filter=family)["runs"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in found]
    cached = {each["slimline.stage"]: each["slimline.cached"] for each in tags if "slimline.stage" in each}
    assert cached == dict.fromkeys(("train-teacher", "drop-blocks", "teach-reader"), "true")


def test_a_file_of_questions_and_an_encoder_that_does_not_fit(line: Line, taught: Finished, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    lines = []
    for made in make_questions(90, seed=4, facts=1):
        answers = {"text": list(made.answers), "answer_start": [made.start]}
        lines.append(json.dumps({"question": made.question, "context": made.context, "answers": answers}))
    file.write_text("\n".join(lines))
    few = ("-p", "data.teaching=200", "-p", "data.training=20", "-p", "data.evaluation=20")
    too_few = line.slimline("run", "reader", "-p", f"data.source={file}", *few)
    assert too_few.code == 1 and "RefusedData" in too_few.text and "teaching" in too_few.text
    few = ("-p", "data.teaching=60", "-p", "data.training=0", "-p", "data.evaluation=20", "-p", "recipe.epochs=3")
    lenient = ("-p", "gate.min_f1=0", "-p", "gate.max_f1_drop=1", "-p", "registered_name=slimline-shared")
    shared = line.slimline("run", "reader", "-p", f"data.source={file}", *few, *lenient)
    assert shared.code == 0, shared.text
    losses = line.artifacts(shared.flow_run_id)["teach-reader-losses"]
    assert len(values(losses)) == 12, "60 questions that its teacher had too, 16 a step, three epochs"
    inputs = line.mlflow_run(line.mlflow_version("slimline-shared", "1")["run_id"])["inputs"]["dataset_inputs"]
    assert {each["tags"][0]["value"] for each in inputs} == {"teaching", "evaluation"}
    too_deep = line.slimline("run", "reader", *SMALL, "-p", "recipe.blocks=4")
    assert too_deep.code == 1 and "RefusedRecipe" in too_deep.text
    assert set(line.task_runs(too_deep.flow_run_id)) >= {"check_reader"}
    assert "train_teacher" not in line.task_runs(too_deep.flow_run_id)
