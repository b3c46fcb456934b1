"""Windows, decoding and SQuAD's scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.compression.spans import (
    NO_ANSWER,
    Windows,
    best_answers,
    cut_windows,
    normalised,
    score_answers,
    word_f1,
)
from tasks.compression.synthetic_questions import make_questions, write_encoder
from tasks.errors import RefusedData
from tasks.reader_contracts import Question


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "raw", blocks=1, width=16) / "tokenizer.json"


def test_true_spans_decode_to_the_answers(tokenizer: Path) -> None:
    """Logits that are high at the true places give back every answer, letter for letter."""
    questions = make_questions(50, seed=3)
    windows = cut_windows(tokenizer, questions, length=96, stride=16)
    assert len(windows) == 50
    assert bool((windows.starts != NO_ANSWER).all())
    starts, ends = (
        torch.nn.functional.one_hot(place, windows.tokens.shape[1]) for place in (windows.starts, windows.ends)
    )
    answers = best_answers(starts.float(), ends.float(), windows, questions, max_answer_tokens=30)
    assert answers == [question.answers[0] for question in questions]
    assert score_answers(answers, questions).exact_match == 1


def test_long_contexts_overlap_and_every_answer_is_whole_somewhere(tokenizer: Path) -> None:
    questions = make_questions(30, seed=4, facts=6, places=2)
    windows = cut_windows(tokenizer, questions, length=40, stride=16)
    assert len(windows) > 2 * len(questions)
    assert windows.tokens.shape[1] == 40
    held = {int(owner) for owner, start in zip(windows.owners, windows.starts, strict=True) if start != NO_ANSWER}
    assert held == set(range(30))
    for number in range(len(windows)):
        if windows.starts[number] != NO_ANSWER:
            question = questions[int(windows.owners[number])]
            left = int(windows.offsets[number, windows.starts[number], 0])
            right = int(windows.offsets[number, windows.ends[number], 1])
            assert question.context[left:right] == question.answers[0]


def test_decoding_takes_the_best_allowed_span() -> None:
    """Tokens: [CLS] q [SEP] a b c d [SEP]. The best pairs are backwards, too long, or outside the context."""
    context = torch.tensor([[False, False, False, True, True, True, True, False]])
    offsets = torch.tensor([[[0, 0]] * 3 + [[0, 1], [2, 3], [4, 5], [6, 7], [0, 0]]])
    nothing = torch.zeros(1, 8, dtype=torch.int64)
    windows = Windows(nothing, nothing, nothing, context, nothing, nothing, offsets, torch.tensor([0]))
    questions = [Question("q", "a b c d", ("b",), 2)]
    starts = torch.tensor([[9.0, 0, 0, 3.0, 1.0, 0.0, 5.0, 0]])
    ends = torch.tensor([[9.0, 0, 0, 0.0, 1.5, 2.5, 4.0, 0]])
    assert best_answers(starts, ends, windows, questions, max_answer_tokens=4) == ["d"]
    starts[0, 6] = 0.0
    assert best_answers(starts, ends, windows, questions, max_answer_tokens=4) == ["a b c d"]
    assert best_answers(starts, ends, windows, questions, max_answer_tokens=3) == ["a b c"]
    assert best_answers(starts, ends, windows, questions, max_answer_tokens=1) == ["d"]


def test_scores_are_squads() -> None:
    assert normalised("  The  Quick, brown-fox! An a ") == "quick brownfox"
    assert word_f1("the Eiffel Tower", "Eiffel tower!") == 1
    assert word_f1("Eiffel Tower in Paris", "Eiffel Tower") == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert word_f1("x x y", "x z") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert word_f1("Paris", "London") == 0
    questions = [Question("?", "b c", ("b", "B c."), 0), Question("?", "d", ("d",), 0)]
    score = score_answers(["the b c", ""], questions)
    assert (score.exact_match, score.f1, score.questions) == (0.5, 0.5, 2)


def test_bad_questions_are_refused(tokenizer: Path) -> None:
    good = make_questions(1, seed=0)[0]
    moved = Question(good.question, good.context, good.answers, good.start + 1)
    for questions in ([], [moved], [Question("what " * 90, good.context, good.answers, good.start)]):
        with pytest.raises(RefusedData):
            cut_windows(tokenizer, questions, length=96, stride=16)
