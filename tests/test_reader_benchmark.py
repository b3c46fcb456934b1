"""The benchmark of readers on real material: what it refuses, whose questions it holds out, and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.question_answering import REAL, main, measure_real
from benchmarks.reader_material import read_material
from tasks.compression.synthetic_questions import make_questions, write_encoder
from tasks.errors import RefusedData


def squad(path: Path, articles: int, paragraphs: int = 2) -> Path:
    """A file of ``articles``, each with different paragraphs of two questions."""
    data: list[dict[str, Any]] = []
    for article in range(articles):
        whole = []
        for number in range(paragraphs):
            context = f"Place {article} has {number} rivers and {article + number} hills."
            start = context.index("rivers")
            qas = [
                {"id": f"{which}", "question": f"What {which}?", "answers": [{"text": "rivers", "answer_start": start}]}
                for which in range(2)
            ]
            whole.append({"context": context, "qas": qas})
        data.append({"title": f"Place {article}", "paragraphs": whole})
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return path


def test_whole_articles_are_held_out_and_share_no_passage_with_the_others(tmp_path: Path) -> None:
    file = str(squad(tmp_path / "a.json", articles=12))
    found = read_material(file, 7, seed=0)
    assert found.unit == "article" and len(found.held_out) == 8 and len(set(found.held_out_units)) == 2
    assert len(found.training) == 40
    assert not {each.context for each in found.training} & {each.context for each in found.held_out}
    assert not {each.context.split()[1] for each in found.training} & {
        each.context.split()[1] for each in found.held_out
    }
    assert read_material(file, 7, seed=0) == found != read_material(file, 7, seed=1)


def test_a_file_of_few_articles_is_divided_by_contexts(tmp_path: Path) -> None:
    found = read_material(str(squad(tmp_path / "a.json", articles=1, paragraphs=20)), 7, seed=0)
    assert found.unit == "context" and len(found.held_out) == 8 and len(set(found.held_out_units)) == 4
    assert not {each.context for each in found.training} & {each.context for each in found.held_out}


@pytest.mark.parametrize("held_out", [0, 48, 1000])
def test_something_must_be_left_on_either_side(tmp_path: Path, held_out: int) -> None:
    with pytest.raises(RefusedData, match="--held-out"):
        read_material(str(squad(tmp_path / "a.json", articles=12)), held_out, seed=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "{encoder}"], "go together"),
        (["--questions", "{questions}"], "go together"),
        (["--encoder", "{encoder}", "--questions", "{questions}", "--quick"], "--quick"),
        (["--encoder", "{encoder}", "--questions", "absent.json"], "no such file"),
        (["--encoder", "absent", "--questions", "{questions}", "--held-out", "9"], "config.json"),
        (["--encoder", "{encoder}", "--questions", "{questions}", "--held-out", "9", "--blocks", "2"], "1 to 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = write_encoder(tmp_path / "encoder", blocks=2, width=32)
    questions = squad(tmp_path / "a.json", articles=12)
    filled = [each.format(encoder=encoder, questions=questions) for each in arguments]
    monkeypatch.setattr("sys.argv", ["question_answering", *filled])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code not in (0, None)
    told = f"{stopped.value.code} {capsys.readouterr().err}"
    assert said in told, told


def test_a_real_run_has_a_row_for_each_model_and_two_differences(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    lines = [
        {
            "question": made.question,
            "context": made.context,
            "answers": {"text": made.answers, "answer_start": [made.start]},
        }
        for made in make_questions(60, seed=4, facts=1)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    encoder = write_encoder(tmp_path / "encoder", blocks=3, width=32)
    material = read_material(str(file), 20, seed=0)
    rows = list(measure_real(encoder, material, replace(REAL, learning_rate=3e-3), (0, 1), (2, 1)))
    assert [row.model.rpartition(": ")[2] for row in rows] == [
        "teacher", "before", "distilled", "true spans only", "teacher − distilled", "distilled − true spans only"
    ]  # fmt: skip
    teacher, before, distilled, hard, lost, gained = rows
    assert (teacher.blocks, before.blocks, distilled.blocks, hard.blocks) == (3, 2, 2, 2)
    assert before.bytes == distilled.bytes < teacher.bytes and before.steps == 0
    assert distilled.steps == hard.steps == -(-len(material.training) // REAL.batch_windows)
    assert all(row.f1_low <= row.f1 <= row.f1_high for row in rows)
    assert lost.f1 == pytest.approx(teacher.f1 - distilled.f1)
    assert gained.f1 == pytest.approx(distilled.f1 - hard.f1)
