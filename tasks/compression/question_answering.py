"""Teach a smaller encoder to answer questions from a larger one: start and end logits, and the true span.

    loss = (1 − hard_share) · T² · ½ [KL(startₜ ‖ startₛ) + KL(endₜ ‖ endₛ)] + hard_share · ½ [CE(start) + CE(end)]

with softmaxes over the window's tokens, those of the KL softened by the temperature T; means over windows (DistilBERT's
second, task-specific distillation, Sanh et al. 2019, arXiv:1910.01108, section 3). Windows that do not hold the whole
answer have no true span and count for the KL alone. Without a teacher the true span is all: ordinary fine-tuning.

All weights learn, without dropout, so that a run depends on its seed alone; zeros of linear layers stay zero. AdamW
without weight decay, warm-up and cosine as in ``training_loop``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.compression.encoder_students import copy_tokenizer
from tasks.compression.loading import load_reader, quiet
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.spans import (
    NO_ANSWER,
    AnswerScore,
    Windows,
    best_answers,
    cut_windows,
    score_answers,
)
from tasks.compression.training_loop import Lesson, StepResult, parts, train
from tasks.errors import RefusedModel, RefusedRecipe
from tasks.reader_contracts import Question

FAR_BELOW = -1e4
"""Logit of padding: its probability is exactly zero in float32, and zero times its logarithm is zero."""


Logits = tuple[Tensor, Tensor]
"""Of start and end, (windows, length) each."""


def span_loss(
    student: Logits, teacher: Logits | None, starts: Tensor, ends: Tensor, *, temperature: float, hard_share: float
) -> Lesson:
    """Mean loss over windows; ``hidden`` is 0.

    Args:
        student, teacher: finite logits; without a teacher ``soft`` is 0.
        starts, ends: int64 (windows,), or ``NO_ANSWER``.
        temperature: T > 0.
        hard_share: weight of the true span, 0 to 1.
    """
    soft, hard = student[0].new_zeros(()), student[0].new_zeros(())
    known = max(1, int((starts != NO_ANSWER).sum()))
    for side, right in enumerate((starts, ends)):
        hard = hard + functional.cross_entropy(student[side], right, ignore_index=NO_ANSWER, reduction="sum") / known
        if teacher is not None:
            soft = soft + temperature**2 * functional.kl_div(
                functional.log_softmax(student[side] / temperature, -1),
                functional.log_softmax(teacher[side] / temperature, -1),
                log_target=True,
                reduction="batchmean",
            )
    soft, hard = soft / 2, hard / 2
    total = (1 - hard_share) * soft + hard_share * hard
    return Lesson(total, soft.detach(), hard.detach(), soft.new_zeros(()))


@dataclass(frozen=True)
class _Plan(Schedule):
    temperature: float
    hard_share: float


def distill_reader(
    student: Path,
    teacher: Path | None,
    destination: Path,
    questions: Sequence[Question],
    *,
    epochs: int,
    batch_windows: int,
    learning_rate: float,
    temperature: float,
    hard_share: float,
    seed: int,
    length: int = 384,
    stride: int = 128,
    partial: Partial | None = None,
) -> Iterator[StepResult]:
    """Distil an encoder with a question-answering head into the new folder ``destination``, float32.

    Inputs are checked at the call; the work is done as the iterator is drawn, a result a step, and the folder is
    written when it is exhausted. An iterator that is closed early, or an error, writes nothing.

    Args:
        student: folder that ``AutoModelForQuestionAnswering`` loads, with tokenizer.json; dense.
        teacher: such a folder with the same tokenizer, or none to learn from the true spans alone.
        destination: absent, or an empty folder.
        questions: training split.
        epochs, batch_windows: passes over all windows, and windows a step.
        learning_rate: AdamW's own, at its peak; 5e-5 is usual for a pretrained encoder.
        temperature, hard_share: of the loss; without a teacher ``hard_share`` is 1.
        length, stride: of the windows, tokens.
        partial: where the state is kept, see ``distillation.distill_folder``; the result has the same bytes.

    Raises:
        RefusedData: the questions cannot be cut into windows.
        RefusedModel: a folder cannot be read, or the tokenizers differ.
        RefusedRecipe: a number out of range.
        SlimlineError: the loss or a gradient is no longer finite; nothing is written.
    """
    if teacher is not None and _tokenizer(student).read_bytes() != _tokenizer(teacher).read_bytes():
        raise RefusedModel(
            "student and teacher do not share a tokenizer",
            observed="different tokenizer.json",
            limit="the same bytes",
            remedy="use the model that the student was made from as its teacher",
        )
    if temperature <= 0 or not 0 <= hard_share <= 1 or (teacher is None and hard_share != 1):
        raise RefusedRecipe(
            "question answering cannot be taught with these numbers",
            observed=f"temperature {temperature}, hard_share {hard_share}, {'no' if teacher is None else 'a'} teacher",
            limit="temperature above 0, hard_share 0 to 1, and 1 without a teacher",
            remedy="correct the numbers",
        )
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    windows = cut_windows(_tokenizer(student), questions, length=length, stride=stride)
    plan = _Plan(len(windows), epochs, batch_windows, learning_rate, seed, temperature, hard_share)
    plan.check()
    return _distill(student, teacher, destination, windows, plan, partial)


def evaluate_reader(
    folder: Path, questions: Sequence[Question], *, length: int = 384, stride: int = 128, max_answer_tokens: int = 30
) -> AnswerScore:
    """Exact match and F1 of the model in ``folder``, read as plain transformers does.

    Raises:
        RefusedData: the questions cannot be cut into windows.
        RefusedModel: the folder cannot be read.
    """
    windows = cut_windows(_tokenizer(folder), questions, length=length, stride=stride)
    model = load_reader(folder)
    began = time.perf_counter()
    with torch.inference_mode():
        found = [span_logits(model, windows, rows) for rows in parts(torch.arange(len(windows)), windows.length)]
    seconds = time.perf_counter() - began
    starts, ends = (torch.cat(side) for side in zip(*found, strict=True))
    answers = best_answers(starts, ends, windows, questions, max_answer_tokens=max_answer_tokens)
    return replace(score_answers(answers, questions), seconds=seconds)


def _tokenizer(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise RefusedModel(
            "the folder has no tokenizer",
            observed=f"no tokenizer.json in {folder.name}",
            limit="a whole Hugging Face folder",
            remedy="save the tokenizer beside the model",
        )
    return path


def span_logits(model: PreTrainedModel, windows: Windows, rows: Tensor) -> Logits:
    """Start and end logits of the windows whose numbers are ``rows``, int64 (some,); ``FAR_BELOW`` at padding.

    Padding that all of them share is not computed: real windows are half as long as the longest.
    """
    width = int(windows.attention[rows].sum(1).max())
    takes_segments = getattr(model.config, "type_vocab_size", 0) > 1  # DistilBERT and RoBERTa have none
    segments = {"token_type_ids": windows.segments[rows, :width]} if takes_segments else {}
    mask = windows.attention[rows, :width]
    output: Any = model(input_ids=windows.tokens[rows, :width], attention_mask=mask, **segments)
    padding, missing = mask == 0, (0, windows.length - width)

    def whole(logits: Tensor) -> Tensor:
        return functional.pad(logits.masked_fill(padding, FAR_BELOW), missing, value=FAR_BELOW)

    return whole(output.start_logits), whole(output.end_logits)


@dataclass(frozen=True)
class _Weights:
    """All weights of a dense model learn, at one rate; zeros of its linear layers stay."""

    parameters: list[nn.Parameter]
    zeros: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Weights:
        model.requires_grad_(True)
        linears = (layer.weight for layer in model.modules() if isinstance(layer, nn.Linear))
        return cls(list(model.parameters()), [(weight, weight == 0) for weight in linears])

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self.parameters, "size": 1.0}]

    def clear_masked_gradients(self) -> None:
        for weight, zero in self.zeros:
            if weight.grad is not None:
                weight.grad.masked_fill_(zero, 0.0)

    def refresh(self) -> None:
        """The weights are used as they are."""


def _distill(
    student: Path, teacher: Path | None, destination: Path, windows: Windows, plan: _Plan, partial: Partial | None
) -> Iterator[StepResult]:
    started = time.perf_counter()
    model, guide = load_reader(student), None if teacher is None else load_reader(teacher)

    def lesson(rows: Tensor) -> Lesson:
        wanted = None
        if guide is not None:
            with torch.no_grad():
                wanted = span_logits(guide, windows, rows)
        return span_loss(
            span_logits(model, windows, rows),
            wanted,
            windows.starts[rows],
            windows.ends[rows],
            temperature=plan.temperature,
            hard_share=plan.hard_share,
        )

    yield from train(_Weights.of(model), lesson, plan, windows.length, partial=partial, started=started)
    _write(model, student, destination)


def _write(model: PreTrainedModel, student: Path, destination: Path) -> None:
    """Weights and config.json as transformers saves them, and the student's tokenizer; all at once, or nothing."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".writing-") as name:
        folder = Path(name) / "model"
        with quiet():
            model.save_pretrained(folder)
        copy_tokenizer(student, folder)
        folder.replace(destination)
