"""What can be seen wrong with a generated answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.compression.answers import (
    Answer,
    AnswerPair,
    Document,
    loops,
    read_answers,
    read_documents,
    write_answers,
    write_documents,
)


@pytest.mark.parametrize(
    ("tokens", "ends_in_a_loop"),
    [
        ((), False),
        ((1, 2, 3, 4), False),
        ((1, 7, 7, 7), True),
        ((7, 7, 7, 1), False),
        ((9, 1, 2, 1, 2, 1, 2), True),
        ((1, 2, 1, 2), False),
        ((4, 1, 2, 3, 1, 2, 3, 1, 2, 3), True),
        ((1, 2, 3, 1, 2, 3, 1, 2, 4), False),
    ],
)
def test_a_loop_is_three_times_the_same_at_the_end(tokens: tuple[int, ...], ends_in_a_loop: bool) -> None:
    assert loops(tokens) is ends_in_a_loop


def test_figures_of_an_answer_and_of_a_pair() -> None:
    blank, said = Answer.of(" \n", (5,)), Answer.of("a b a b", (1, 2, 1, 2))
    assert blank.empty and blank.degenerate and blank.distinct == 1.0
    assert not said.degenerate and said.distinct == pytest.approx(2 / 3)
    assert AnswerPair("p", said, Answer.of("a b", (1, 2))).same_start == 0.5
    assert AnswerPair("p", said, Answer.of("c", (3,))).same_start == 0.0
    assert (
        AnswerPair("p", said, said).same_start == AnswerPair("p", Answer.of("", ()), Answer.of("", ())).same_start == 1
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pairs = [AnswerPair("Où\n?", Answer.of("là", (1, 2)), Answer.of("", ()))]
    documents = [Document("capitals", "acc", 0, 1.0, 0.0)]
    write_answers(tmp_path, pairs)
    write_documents(tmp_path, documents)
    assert read_answers(tmp_path) == pairs
    assert read_documents(tmp_path) == documents and documents[0].drop == 1.0
