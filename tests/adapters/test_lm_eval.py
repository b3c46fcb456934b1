"""Tasks of lm-evaluation-harness: what is refused before anything runs, and the real harness where it is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.adapters.engine_kinds import LM_EVAL
from tasks.adapters.engines import find_environment, read_constraints
from tasks.adapters.lm_eval_runs import read_task_folder, run_tasks
from tasks.compression.answers import Document
from tasks.errors import RefusedData
from tasks.run_tasks import task_scores
from tasks.settings import settings
from tests.compression.small import quantize, write_llama

TASK = """
task: next-word
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: ["w5", "w6", "w7"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def write_task(folder: Path, text: str = TASK) -> Path:
    folder.mkdir()
    (folder / "next.yaml").write_text(text)
    rows = [{"text": f"w{number + 3} w{number + 9}", "label": number % 3} for number in range(12)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_folder_of_tasks_has_names_and_a_digest_of_its_files(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "tasks")
    before = read_task_folder(folder)
    assert before.names == ("next-word",)
    (folder / "words.jsonl").write_text('{"text": "w3", "label": 0}\n')
    assert read_task_folder(folder).digest != before.digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dataset_path: json", "dataset_path: squad", "dataset_path 'squad'"),
        ("words.jsonl", "absent.jsonl", "absent.jsonl"),
        ("words.jsonl", "../outside.jsonl", "outside.jsonl"),
        ("words.jsonl", "https://example.com/words.jsonl", "example.com"),
        ("words.jsonl}}", "words.jsonl}, trust_remote_code: true}", "trust_remote_code"),
        ("doc_to_target: label", "doc_to_target: !function code.target", "!function"),
        ("task: next-word", "task: next-word\ninclude: /etc/other.yaml", "include"),
        ("task: next-word", "group: words", "no .yaml file with a task"),
    ],
)
def test_what_would_run_code_or_need_a_network_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / "outside.jsonl").write_text("{}\n")
    with pytest.raises(RefusedData) as refused:
        read_task_folder(write_task(tmp_path / "tasks", TASK.replace(old, new)))
    assert words in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedData, match="not a folder"):
        read_task_folder(tmp_path / "absent")


def test_scores_are_paired_by_document() -> None:
    documents = [Document("t", "acc", number, 1.0, float(number >= 6)) for number in range(40)]
    (score,) = task_scores(documents)
    assert (score.items, score.baseline, score.candidate) == (40, 1.0, 0.85)
    assert score.drop_upper is not None and 0.15 < score.drop_upper < 0.4
    assert score.p == pytest.approx(2 * 0.5**6), "McNemar's exact test: six lost, none won"


def test_every_package_of_the_harness_is_pinned() -> None:
    assert set(LM_EVAL.packages) <= set(read_constraints(LM_EVAL.constraints))


@pytest.mark.skipif(
    find_environment(LM_EVAL, settings().engines) is None,
    reason="lm-eval is not built: slimline engines --build lm-eval",
)
def test_the_real_harness_scores_both_models_offline(tmp_path: Path) -> None:
    write_llama(tmp_path / "dense")
    quantize(tmp_path / "dense", tmp_path / "packed")
    environment = find_environment(LM_EVAL, settings().engines)
    assert environment is not None
    rows = run_tasks(
        environment,
        {"baseline": tmp_path / "dense", "candidate": tmp_path / "packed"},
        read_task_folder(write_task(tmp_path / "tasks")),
        threads=1,
    )
    assert [row["document"] for row in rows] == list(range(12))
    assert {row["task"] for row in rows} == {"next-word"} and {row["metric"] for row in rows} == {"acc"}
    assert {row[side] for row in rows for side in ("baseline", "candidate")} <= {0.0, 1.0}
