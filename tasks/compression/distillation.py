"""Teach a compressed model from the original: logit distillation that keeps zeros zero and integers as they are.

What is asked of the student is in ``teaching`` and ``losses``, what learns is in ``trainable``. AdamW (Loshchilov,
Hutter 2019) without weight decay, since the student is already near a trained model and decay would only pull it away;
linear warm-up, then a cosine to zero; gradients clipped to norm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import refuse_final
from tasks.compression.divergences import DivergenceName
from tasks.compression.loading import check_tokens
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.teaching import Headed, Teaching, Terms, teaching
from tasks.compression.trainable import Trainable, make_trainable
from tasks.compression.training_state import restore, state_of
from tasks.compression.writing import FolderWriter
from tasks.errors import RefusedModel, SlimlineError

MAX_GRAD_NORM = 1.0
BETAS = (0.9, 0.95)
MICRO_TOKENS = 1024
"""Positions a forward pass holds activations for; a larger batch is worked through in parts, gradients added."""
SAVE_SECONDS = 20.0
"""How often the state is kept for another process to go on with: what a kill costs at most, and a step."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step.

    Attributes:
        step, steps: this step, from 1, and how many there are.
        loss, soft_loss, hard_loss: means over the step's positions before the update, nats; soft is T² · divergence.
        tokens: tokens worked through since the beginning.
        seconds: since the beginning, loading included.
        learning_rate: that this step used, relative as in the recipe.
        grad_norm: of all gradients together, before clipping.
        hidden_loss: relative square error of hidden states, before it is weighted; 0 where it is not asked for.
    """

    step: int
    steps: int
    loss: float
    soft_loss: float
    hard_loss: float
    tokens: int
    seconds: float
    learning_rate: float
    grad_norm: float
    hidden_loss: float = 0.0


def distill_folder(
    student: Path,
    teacher: Path,
    destination: Path,
    tokens: Tensor,
    *,
    epochs: int,
    batch_blocks: int,
    learning_rate: float,
    temperature: float,
    hard_share: float,
    seed: int,
    divergence: DivergenceName = "forward_kl",
    hidden_weight: float = 0.0,
    cached_top_k: int = 0,
    partial: Partial | None = None,
) -> Iterator[StepResult]:
    """Distil ``student`` from ``teacher`` into the new folder ``destination``, in the student's own format.

    Inputs are checked at the call; the work is done as the iterator is drawn, a result a step, and the folder is
    written when it is exhausted. An iterator that is closed early, or an error, writes nothing.

    Args:
        student: dense, pruned or packed folder; it may have fewer blocks, heads or MLP channels than the teacher.
        teacher: folder of the original; same vocabulary.
        destination: absent, or an empty folder.
        tokens: (blocks, length) integers, training split.
        epochs: passes over all blocks, each in an order of its own from ``seed``.
        batch_blocks: blocks a step.
        learning_rate: peak, relative: about the share by which a step changes a scale, norm or weight.
        temperature, hard_share: of the loss, see ``losses``.
        divergence: what the soft part of the loss is, see ``divergences``.
        hidden_weight: of the loss on hidden states that is added, see ``hidden_matching``; 0 leaves it out.
        cached_top_k: tokens a position that are kept of the teacher's answers on disk, see ``teacher_cache``; 0 asks
            the teacher about every part.
        partial: where the state is kept every ``SAVE_SECONDS``. A distillation that was killed and is started again
            with the same arguments and folder yields the finished steps at once, goes on after them, and ends with
            the same bytes.

    Raises:
        RefusedData: no tokens, or ids outside the vocabulary.
        RefusedModel: a folder cannot be read, the vocabularies differ, or hidden states are to be compared and cannot.
        RefusedRecipe: a number out of range, or options that exclude each other.
        SlimlineError: the loss or a gradient is no longer finite; nothing is written.
    """
    folders = Checkpoint(student), Checkpoint(teacher)
    refuse_final(folders[0])
    vocabularies = [int(folder.config["vocab_size"]) for folder in folders]
    if vocabularies[0] != vocabularies[1]:
        raise RefusedModel(
            "student and teacher do not share a vocabulary",
            observed=f"student {vocabularies[0]}, teacher {vocabularies[1]} tokens",
            limit="the same",
            remedy="use the model that the student was made from as its teacher",
        )
    check_tokens(tokens, vocabularies[0])
    terms = Terms(temperature, hard_share, divergence, hidden_weight, cached_top_k)
    terms.check(*folders)
    plan = _Plan(len(tokens), epochs, batch_blocks, learning_rate, seed, terms)
    plan.check()
    return _distill(folders, destination, tokens, plan, partial)


@dataclass(frozen=True)
class _Plan(Schedule):
    terms: Terms


def _accumulate(student: Headed, teach: Teaching, tokens: Tensor, indices: Tensor) -> list[float]:
    """Backpropagate the mean loss of the blocks ``indices``, part by part; total, soft, hard and hidden loss."""
    sums = [0.0, 0.0, 0.0, 0.0]
    for part in indices.split(max(1, MICRO_TOKENS // tokens.shape[1])):
        loss = teach(student, tokens[part].long(), part)
        share = len(part) / len(indices)
        (loss.total * share).backward()
        sums = [total + share * value.item() for total, value in zip(sums, loss, strict=True)]
    return sums


def _distill(
    folders: tuple[Checkpoint, Checkpoint], destination: Path, tokens: Tensor, plan: _Plan, partial: Partial | None
) -> Iterator[StepResult]:
    started = time.perf_counter()
    student = Headed.load(folders[0].folder)
    with teaching(student, folders, tokens, plan.terms, partial) as teach:
        trainable = make_trainable(student.model, folders[0])
        optimizer = torch.optim.AdamW(trainable.groups(), lr=plan.learning_rate, betas=BETAS, weight_decay=0.0)
        results = _resume(trainable, optimizer, partial)
        yield from results
        saved = time.perf_counter()
        for step, indices in enumerate(plan.batches()):
            if step < len(results):
                continue
            (loss, soft, hard, hidden), norm = _gradients(student, teach, trainable, tokens, indices, step, plan)
            rate = plan.rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["size"]
            optimizer.step()
            trainable.refresh()
            optimizer.zero_grad(set_to_none=True)
            seen = indices.numel() * tokens.shape[1] + (results[-1].tokens if results else 0)
            seconds = time.perf_counter() - started
            results.append(StepResult(step + 1, plan.steps, loss, soft, hard, seen, seconds, rate, norm, hidden))
            if partial is not None and time.perf_counter() - saved >= SAVE_SECONDS:
                notes = {"steps": list(map(asdict, results))}
                partial.write(step + 1, state_of(trainable.parameters, optimizer), notes, ())
                saved = time.perf_counter()
            yield results[-1]
    _write(folders[0], trainable, destination)


def _resume(trainable: Trainable, optimizer: torch.optim.Optimizer, partial: Partial | None) -> list[StepResult]:
    """Put back what an earlier process had learnt; its steps, none when there was none."""
    saved = None if partial is None else partial.read()
    if saved is None:
        return []
    restore(trainable.parameters, optimizer, saved.tensors)
    trainable.refresh()
    return [StepResult(**step) for step in saved.notes["steps"]]


def _gradients(
    student: Headed,
    teach: Teaching,
    trainable: Trainable,
    tokens: Tensor,
    indices: Tensor,
    step: int,
    plan: _Plan,
) -> tuple[list[float], float]:
    """Losses of the blocks ``indices``, and the norm of the gradients that they leave, masked and clipped."""
    losses = _accumulate(student, teach, tokens, indices)
    _require_finite("loss", losses[0], step + 1, plan)
    trainable.clear_masked_gradients()
    norm = float(torch.nn.utils.clip_grad_norm_(trainable.parameters, MAX_GRAD_NORM))
    _require_finite("gradient norm", norm, step + 1, plan)
    return losses, norm


def _require_finite(what: str, value: float, step: int, plan: _Plan) -> None:
    if not math.isfinite(value):
        raise SlimlineError(
            f"the {what} of distillation is no longer a number; nothing was written",
            observed=f"{value} at step {step} of {plan.steps}",
            limit="finite",
            remedy=f"lower the learning rate, now {plan.learning_rate:g}; a tenth of it is a good next try",
        )


def _write(checkpoint: Checkpoint, trainable: Trainable, destination: Path) -> None:
    def learnt(names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: trainable.stored(checkpoint, name) for name in names}

    with FolderWriter(checkpoint, destination, checkpoint.packing) as writer:
        for index in range(checkpoint.blocks):
            writer.write_block(index, learnt(checkpoint.block_names(index)))
        writer.write_outer(learnt(checkpoint.outer_names()))
