"""A tiny encoder learns to answer, and a student of half its depth learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering

from tasks.compression import training_loop
from tasks.compression.encoder_students import keep_encoder_blocks
from tasks.compression.loading import load_reader
from tasks.compression.question_answering import (
    FAR_BELOW,
    distill_reader,
    evaluate_reader,
    span_logits,
    span_loss,
)
from tasks.compression.resuming import Partial
from tasks.compression.spans import NO_ANSWER, cut_windows
from tasks.compression.synthetic_questions import LENGTH, make_questions, write_encoder
from tasks.compression.training_loop import StepResult
from tasks.errors import RefusedModel, RefusedRecipe, SlimlineError

RECIPE: dict[str, Any] = {
    "epochs": 2, "batch_windows": 16, "learning_rate": 3e-3, "temperature": 2.0, "hard_share": 0.2, "seed": 0,
    "length": LENGTH, "stride": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher, trained from nothing; student: two of its four blocks; and one as deep that has learnt nothing."""
    home = tmp_path_factory.mktemp("readers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_encoder(home / "raw", blocks=4, width=32)
    teach(home, "raw", None, home / "teacher", count=640, hard_share=1.0)
    keep_encoder_blocks(home / "teacher", home / "student", (0, 2))
    write_encoder(home / "blank", blocks=2, width=32, seed=5)
    torch.set_num_threads(threads)
    return home


def teach(
    home: Path, student: str, teacher: str | None, out: Path, *, count: int = 160, seed: int = 1, **changes: Any
) -> list[StepResult]:
    folder = None if teacher is None else home / teacher
    questions = make_questions(count, seed=seed, facts=1, places=1)
    return list(distill_reader(home / student, folder, out, questions, **RECIPE | changes))


def exact(folder: Path) -> float:
    questions = make_questions(100, seed=9, facts=1, places=1)
    score = evaluate_reader(folder, questions, length=LENGTH, stride=16)
    assert score.exact_match <= score.f1 <= 1
    return score.exact_match


def test_a_student_of_half_the_depth_learns_from_its_teacher(home: Path, tmp_path: Path) -> None:
    results = teach(home, "blank", "teacher", tmp_path / "distilled", count=480, hard_share=0.0)
    assert results[-1].step == results[-1].steps == 60
    assert results[-1].soft_loss < 0.3 * results[0].soft_loss
    teacher, before, after = (exact(each) for each in (home / "teacher", home / "blank", tmp_path / "distilled"))
    assert teacher > 0.9
    assert before < 0.3
    assert after > 0.7
    plain = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "distilled")
    assert plain.config.num_hidden_layers == 2


def test_a_student_of_zeros_keeps_them(home: Path, tmp_path: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(home / "student")
    weight = model.get_submodule("bert.encoder.layer.1.intermediate.dense").weight
    with torch.no_grad():
        weight[:, ::2] = 0.0
    model.save_pretrained(tmp_path / "pruned")
    (tmp_path / "pruned" / "tokenizer.json").write_bytes((home / "raw" / "tokenizer.json").read_bytes())
    teach(tmp_path, "pruned", None, tmp_path / "out", count=32, epochs=1, hard_share=1.0)
    after = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out")
    learnt = after.get_submodule("bert.encoder.layer.1.intermediate.dense").weight
    assert bool((learnt[:, ::2] == 0).all())
    assert not torch.equal(learnt, weight)


def test_loss_against_autograd_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    student = tuple(torch.randn(5, 9, generator=generator, dtype=torch.float64).requires_grad_() for _ in "se")
    teacher = tuple(torch.randn(5, 9, generator=generator, dtype=torch.float64) for _ in "se")
    starts, ends = torch.tensor([1, 2, NO_ANSWER, 0, 8]), torch.tensor([3, 2, NO_ANSWER, 4, 8])
    loss = span_loss(student, teacher, starts, ends, temperature=2.0, hard_share=0.3)  # type: ignore[arg-type]
    soft = hard = 0.0
    for ours, theirs, right in zip(student, teacher, (starts, ends), strict=True):
        p, q = (theirs / 2).softmax(-1), (ours / 2).softmax(-1)
        soft = soft + 4 * (p * (p / q).log()).sum(-1).mean() / 2
        hard = hard + functional.cross_entropy(ours, right) / 2  # the mean leaves NO_ANSWER out
    torch.testing.assert_close(loss.total, 0.7 * soft + 0.3 * hard)
    found = torch.autograd.grad(loss.total, student)
    torch.testing.assert_close(found, torch.autograd.grad(0.7 * soft + 0.3 * hard, student))


def test_windows_without_answers_teach_nothing_hard() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    none = torch.tensor([NO_ANSWER, NO_ANSWER])
    loss = span_loss((logits, logits), None, none, none, temperature=1.0, hard_share=1.0)
    assert loss.total.item() == 0


def test_shared_padding_is_left_out_and_changes_no_logit(home: Path) -> None:
    questions = [*make_questions(6, seed=3, facts=1), *make_questions(1, seed=3, facts=4)]
    windows = cut_windows(home / "raw" / "tokenizer.json", questions, length=LENGTH, stride=16)
    model = load_reader(home / "teacher")
    with torch.inference_mode():
        output: Any = model(input_ids=windows.tokens, attention_mask=windows.attention, token_type_ids=windows.segments)
        found = span_logits(model, windows, torch.arange(6))
    padding = windows.attention[:6] == 0
    assert padding.all(0).any(), "the longest window is not among the six"
    for side, whole in zip(found, (output.start_logits, output.end_logits), strict=True):
        assert side.shape == padding.shape and (side[padding] == FAR_BELOW).all()
        torch.testing.assert_close(side[~padding], whole[:6][~padding], atol=1e-5, rtol=1e-5)


def test_stopped_anywhere_it_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    recipe = RECIPE | {"epochs": 1}
    questions = make_questions(96, seed=1, facts=1, places=1)

    def start(out: Path, partial: Partial | None) -> Any:
        return distill_reader(home / "student", home / "teacher", out, questions, **recipe, partial=partial)

    whole = list(start(tmp_path / "whole", None))
    for stop in (1, 5):
        running = start(tmp_path / "out", Partial(tmp_path / f"partial-{stop}"))
        for _ in range(stop):
            next(running)
        running.close()
        assert not (tmp_path / "out").exists()
        again = Partial(tmp_path / f"partial-{stop}")
        results = list(start(tmp_path / f"out-{stop}", again))
        assert again.resumed == stop
        assert [each.loss for each in results] == [each.loss for each in whole]
        for file in (tmp_path / "whole").iterdir():
            assert file.read_bytes() == (tmp_path / f"out-{stop}" / file.name).read_bytes()


def test_bad_input_is_refused_at_the_call_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedRecipe, match="no teacher"):
        teach(home, "student", None, tmp_path / "out")
    with pytest.raises(RefusedRecipe):
        teach(home, "student", "teacher", tmp_path / "out", temperature=0.0)
    with pytest.raises(RefusedRecipe):
        teach(home, "student", "teacher", tmp_path / "out", learning_rate=0.0)
    write_encoder(tmp_path / "other", blocks=1)
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"river"', '"brook"'))
    with pytest.raises(RefusedModel, match="tokenizer"):
        teach(home, "student", str(tmp_path / "other"), tmp_path / "out")
    with pytest.raises(RefusedRecipe):
        keep_encoder_blocks(home / "teacher", tmp_path / "out", (0, 4))
    with pytest.raises(SlimlineError, match="lower the learning rate"):
        teach(home, "student", "teacher", tmp_path / "out", learning_rate=1e30)
    assert not (tmp_path / "out").exists()
