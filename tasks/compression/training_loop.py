"""The loop of every training here: losses part by part, clipped gradients, AdamW, and a state that outlives a kill.

AdamW (Loshchilov, Hutter 2019) without weight decay, since a student is already near a trained model and decay would
only pull it away; linear warm-up, then a cosine to zero (``schedule``); gradients clipped to norm 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.training_state import restore, state_of
from tasks.errors import SlimlineError

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
        learning_rate: that this step used, as the recipe has it.
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


class Lesson(NamedTuple):
    """Scalars: ``total`` carries the gradient; ``soft``, ``hard`` and ``hidden`` are its parts before weighting."""

    total: Tensor
    soft: Tensor
    hard: Tensor
    hidden: Tensor


class Learner(Protocol):
    """What learns."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """In an order that does not change."""

    def groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of all parameters; a group's learning rate is the schedule's times its ``size``."""

    def clear_masked_gradients(self) -> None:
        """Called before every step: zeros that stay have no gradient."""

    def refresh(self) -> None:
        """Called after every step and after a restored state."""


def parts(items: Tensor, length: int) -> list[Tensor]:
    """``items``, (some,), in as few parts as ``MICRO_TOKENS`` allows when each item has ``length`` positions."""
    return list(items.split(max(1, MICRO_TOKENS // length)))


def train(
    learner: Learner,
    lesson: Callable[[Tensor], Lesson],
    plan: Schedule,
    length: int,
    *,
    partial: Partial | None,
    started: float,
    save_steps: int = 0,
) -> Iterator[StepResult]:
    """Run every step of ``plan``, a result a step; those that an earlier process finished are yielded at once.

    Args:
        learner: asked for its groups once.
        lesson: mean loss of the items whose numbers it is given, int64 (some,).
        plan: checked.
        length: positions of an item.
        partial: where the state is kept every ``SAVE_SECONDS``, or none.
        started: ``time.perf_counter`` at the beginning.
        save_steps: it is kept every so many steps too; 0 leaves it to the seconds.

    Raises:
        SlimlineError: the loss or a gradient is no longer finite.
    """
    optimizer = torch.optim.AdamW(learner.groups(), lr=plan.learning_rate, betas=BETAS, weight_decay=0.0)
    results = _resume(learner, optimizer, partial)
    yield from results
    saved = time.perf_counter()
    for step, items in enumerate(plan.batches()):
        if step < len(results):
            continue
        (loss, soft, hard, hidden), norm = _gradients(learner, lesson, items, length, step, plan)
        rate = plan.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["size"]
        optimizer.step()
        learner.refresh()
        optimizer.zero_grad(set_to_none=True)
        seen = items.numel() * length + (results[-1].tokens if results else 0)
        seconds = time.perf_counter() - started
        results.append(StepResult(step + 1, plan.steps, loss, soft, hard, seen, seconds, rate, norm, hidden))
        due = time.perf_counter() - saved >= SAVE_SECONDS or (save_steps > 0 and (step + 1) % save_steps == 0)
        if partial is not None and due:
            notes = {"steps": list(map(asdict, results))}
            partial.write(step + 1, state_of(learner.parameters, optimizer), notes, ())
            saved = time.perf_counter()
        yield results[-1]


def _resume(learner: Learner, optimizer: torch.optim.Optimizer, partial: Partial | None) -> list[StepResult]:
    """Put back what an earlier process had learnt; its steps, none when there was none."""
    saved = None if partial is None else partial.read()
    if saved is None:
        return []
    restore(learner.parameters, optimizer, saved.tensors)
    learner.refresh()
    return [StepResult(**step) for step in saved.notes["steps"]]


def _gradients(
    learner: Learner, lesson: Callable[[Tensor], Lesson], items: Tensor, length: int, step: int, plan: Schedule
) -> tuple[list[float], float]:
    """Mean losses of ``items``, backpropagated part by part, and the norm of their gradients, masked and clipped."""
    losses = [0.0, 0.0, 0.0, 0.0]
    for part in parts(items, length):
        found = lesson(part)
        share = len(part) / len(items)
        (found.total * share).backward()
        losses = [total + share * value.item() for total, value in zip(losses, found, strict=True)]
    _require_finite("loss", losses[0], step + 1, plan)
    learner.clear_masked_gradients()
    norm = float(nn.utils.clip_grad_norm_(learner.parameters, MAX_GRAD_NORM))
    _require_finite("gradient norm", norm, step + 1, plan)
    return losses, norm


def _require_finite(what: str, value: float, step: int, plan: Schedule) -> None:
    if not math.isfinite(value):
        raise SlimlineError(
            f"the {what} of the training is no longer a number; nothing was written",
            observed=f"{value} at step {step} of {plan.steps}",
            limit="finite",
            remedy=f"lower the learning rate, now {plan.learning_rate:g}; a tenth of it is a good next try",
        )
