"""Teach a smaller encoder to answer questions from a larger one: start and end logits, and the true span.

    loss = (1 − hard_share) · T² · ½ [KL(startₜ ‖ startₛ) + KL(endₜ ‖ endₛ)] + hard_share · ½ [CE(start) + CE(end)]

with softmaxes over the window's tokens, those of the KL softened by the temperature T; means over windows (DistilBERT's
second, task-specific distillation, Sanh et al. 2019, arXiv:1910.01108, section 3). Windows that do not hold the whole
answer have no true span and count for the KL alone. Without a teacher the true span is all: ordinary fine-tuning.

All weights learn, without dropout, so that a run depends on its seed alone; zeros of linear layers stay zero. AdamW
without weight decay, warm-up and cosine as in ``distillation``.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.compression.distillation import BETAS, MAX_GRAD_NORM, MICRO_TOKENS, SAVE_SECONDS, StepResult
from tasks.compression.loading import load_reader, quiet
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.spans import (
    NO_ANSWER,
    AnswerScore,
    Question,
    Windows,
    best_answers,
    cut_windows,
    score_answers,
)
from tasks.compression.training_state import restore, state_of
from tasks.errors import RefusedModel, RefusedRecipe, SlimlineError

FAR_BELOW = -1e4
"""Logit of padding: its probability is exactly zero in float32, and zero times its logarithm is zero."""


class SpanLoss(NamedTuple):
    """Scalars, nats; ``total`` carries the gradient."""

    total: Tensor
    soft: Tensor
    hard: Tensor


Logits = tuple[Tensor, Tensor]
"""Of start and end, (windows, length) each."""


def span_loss(
    student: Logits, teacher: Logits | None, starts: Tensor, ends: Tensor, *, temperature: float, hard_share: float
) -> SpanLoss:
    """Mean loss over windows.

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
    return SpanLoss((1 - hard_share) * soft + hard_share * hard, soft.detach(), hard.detach())


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
    with torch.inference_mode():
        parts = [_logits(model, windows, rows) for rows in _parts(torch.arange(len(windows)), windows)]
    starts, ends = (torch.cat(side) for side in zip(*parts, strict=True))
    return score_answers(best_answers(starts, ends, windows, questions, max_answer_tokens=max_answer_tokens), questions)


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


def _parts(rows: Tensor, windows: Windows) -> list[Tensor]:
    return list(rows.split(max(1, MICRO_TOKENS // windows.tokens.shape[1])))


def _logits(model: PreTrainedModel, windows: Windows, rows: Tensor) -> Logits:
    takes_segments = getattr(model.config, "type_vocab_size", 0) > 1  # DistilBERT and RoBERTa have none
    segments = {"token_type_ids": windows.segments[rows]} if takes_segments else {}
    mask = windows.attention[rows]
    output: Any = model(input_ids=windows.tokens[rows], attention_mask=mask, **segments)
    padding = mask == 0
    return output.start_logits.masked_fill(padding, FAR_BELOW), output.end_logits.masked_fill(padding, FAR_BELOW)


def _distill(
    student: Path, teacher: Path | None, destination: Path, windows: Windows, plan: _Plan, partial: Partial | None
) -> Iterator[StepResult]:
    started = time.perf_counter()
    model, guide = load_reader(student), None if teacher is None else load_reader(teacher)
    model.requires_grad_(True)
    parameters = list(model.parameters())
    zeros = [(layer.weight, layer.weight == 0) for layer in model.modules() if isinstance(layer, nn.Linear)]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=BETAS, weight_decay=0.0)
    saved = None if partial is None else partial.read()
    results: list[StepResult] = []
    if saved is not None:
        restore(parameters, optimizer, saved.tensors)
        results = [StepResult(**step) for step in saved.notes["steps"]]
    yield from results
    kept = time.perf_counter()
    for step, rows in enumerate(plan.batches()):
        if step < len(results):
            continue
        losses = _accumulate(model, guide, windows, rows, plan)
        for weight, zero in zeros:
            if weight.grad is not None:
                weight.grad.masked_fill_(zero, 0.0)
        norm = float(nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
        _require_finite(losses[0] + norm, step, plan)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen = windows.tokens[rows].numel() + (results[-1].tokens if results else 0)
        seconds = time.perf_counter() - started
        results.append(StepResult(step + 1, plan.steps, *losses, seen, seconds, plan.rate(step), norm))
        if partial is not None and time.perf_counter() - kept >= SAVE_SECONDS:
            partial.write(step + 1, state_of(parameters, optimizer), {"steps": list(map(asdict, results))}, ())
            kept = time.perf_counter()
        yield results[-1]
    _write(model, student, destination)


def _accumulate(
    student: PreTrainedModel, teacher: PreTrainedModel | None, windows: Windows, rows: Tensor, plan: _Plan
) -> tuple[float, float, float]:
    """Backpropagate the mean loss of these windows, part by part; total, soft and hard loss."""
    total = soft = hard = 0.0
    for part in _parts(rows, windows):
        wanted = None
        if teacher is not None:
            with torch.no_grad():
                wanted = _logits(teacher, windows, part)
        loss = span_loss(
            _logits(student, windows, part),
            wanted,
            windows.starts[part],
            windows.ends[part],
            temperature=plan.temperature,
            hard_share=plan.hard_share,
        )
        share = len(part) / len(rows)
        (loss.total * share).backward()
        total, soft, hard = (sum_ + share * value.item() for sum_, value in zip((total, soft, hard), loss, strict=True))
    return total, soft, hard


def _require_finite(value: float, step: int, plan: _Plan) -> None:
    if not math.isfinite(value):
        raise SlimlineError(
            "the loss or the gradient is no longer a number; nothing was written",
            observed=f"{value} at step {step + 1} of {plan.steps}",
            limit="finite",
            remedy=f"lower the learning rate, now {plan.learning_rate:g}; a tenth of it is a good next try",
        )


def _write(model: PreTrainedModel, student: Path, destination: Path) -> None:
    """Weights and config.json as transformers saves them, and the student's tokenizer; all at once, or nothing."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".writing-") as name:
        folder = Path(name) / "model"
        with quiet():
            model.save_pretrained(folder)
        for path in (*student.glob("tokenizer*"), *student.glob("vocab.*"), *student.glob("special_tokens_map.json")):
            shutil.copyfile(path, folder / path.name)
        folder.replace(destination)
