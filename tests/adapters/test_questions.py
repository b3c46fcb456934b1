"""Questions from files: both forms of SQuAD, splits that share no context, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.questions import (
    QuestionFile,
    check_question_file,
    deal,
    question_file,
    read_question_file,
    read_questions,
    write_questions,
)
from tasks.errors import RefusedData
from tasks.reader_contracts import Question

CONTEXT = "Vora lies on the Gaku. Its capital is Bade."


def line(**changes: Any) -> str:
    whole = {
        "question": "What is the capital of Vora?",
        "context": CONTEXT,
        "answers": {"text": ["Bade", "Bade."], "answer_start": [38, 38]},
    }
    return json.dumps(whole | changes)


def many(contexts: int) -> list[Question]:
    return [
        Question(f"Which is {number}.{which}?", f"It is {number} here.", (f"{number}",), 6)
        for number in range(contexts)
        for which in range(3)
    ]


def test_both_forms_hold_the_same_questions(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line() + "\n\n" + line(answers={"text": [], "answer_start": []}) + "\n")
    answers = [{"text": "Bade", "answer_start": 38}, {"text": "Bade.", "answer_start": 38}]
    entry = {"id": "1", "question": "What is the capital of Vora?", "answers": answers}
    nested = {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [entry]}]}]}
    (tmp_path / "b.json").write_text(json.dumps(nested))
    first, second = (read_question_file(str(tmp_path / name)) for name in ("a.jsonl", "b.json"))
    assert first.questions == second.questions
    assert first.digest == second.digest
    assert first.questions == (Question("What is the capital of Vora?", CONTEXT, ("Bade", "Bade."), 38),)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (line() + "\n{", "line 2"),
        (line(answers={"text": ["Bade"], "answer_start": [5]}), "does not stand"),
        (line(answers={"text": ["Bade"], "answer_start": [-5]}), "does not stand"),
        (line(answers={"text": ["Bade"], "answer_start": []}), "one length"),
        (line(answers=None), "answers"),
        (line(question=""), "no question"),
        ("[1]", "line 1"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(RefusedData, match=word):
        read_question_file(str(tmp_path / "a.jsonl"))


def test_what_is_no_file_of_questions_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "other.json").write_text('{"data": 3}')
    (tmp_path / "a.txt").write_text("text")
    for name in ("empty.json", "a.txt", "absent.jsonl"):
        with pytest.raises(RefusedData):
            check_question_file(str(tmp_path / name))
    with pytest.raises(RefusedData, match="SQuAD"):
        read_question_file(str(tmp_path / "other.json"))


def test_no_context_is_in_two_splits_and_more_teaching_changes_nothing_else() -> None:
    counts = {"teaching": 30, "training": 10, "evaluation": 20}
    dealt = deal(many(40), counts, seed=0)
    assert {split: len(questions) for split, questions in dealt.items()} == counts
    contexts = [{question.context for question in questions} for questions in dealt.values()]
    assert not (contexts[0] & contexts[1] or contexts[1] & contexts[2] or contexts[0] & contexts[2])
    more = deal(many(40), counts | {"teaching": 60}, seed=0)
    assert more["evaluation"] == dealt["evaluation"] and more["training"] == dealt["training"]
    assert deal(many(40), counts, seed=1)["evaluation"] != dealt["evaluation"]
    with pytest.raises(RefusedData, match=r"too few(.|\n)*data.training=0"):
        deal(many(19), counts, seed=0)
    assert deal(many(19), counts | {"training": 0}, seed=0)["training"] == []


@pytest.mark.parametrize("training", [4, 0])
def test_a_folder_gives_back_what_was_written(tmp_path: Path, training: int) -> None:
    source: QuestionFile = question_file("made", "CC0", [*many(30), *many(1), None])
    assert len(source.questions) == 90, "twice the same is once, none is left out"
    splits = deal(source.questions, {"teaching": 5, "training": training, "evaluation": 3}, seed=0)
    write_questions(tmp_path, splits, source, seed=0)
    assert {split: read_questions(tmp_path, split) for split in splits} == splits
