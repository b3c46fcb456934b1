"""The order of the training items and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.errors import RefusedRecipe

WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Schedule:
    """The numbers of one training, and what follows from them.

    Attributes:
        items: token blocks, or windows of text.
        epochs: passes over all of them.
        batch: items a step.
        learning_rate: at its peak.
        seed: of the order.
    """

    items: int
    epochs: int
    batch: int
    learning_rate: float
    seed: int

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(self.items / self.batch)

    @property
    def warmup_steps(self) -> int:
        return max(1, round(WARMUP_SHARE * self.steps))

    def batches(self) -> Iterator[Tensor]:
        """Item indices of each step; every epoch sees every item once, in its own order."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            yield from torch.randperm(self.items, generator=generator).split(self.batch)

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear to the peak, then half a cosine that reaches zero after the last."""
        warmup = self.warmup_steps
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / (self.steps - warmup + 1)))

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            RefusedRecipe: one is.
        """
        if not (self.epochs >= 1 and self.batch >= 1 and self.learning_rate > 0):
            raise RefusedRecipe(
                "the training cannot run with these numbers",
                observed=f"epochs {self.epochs}, items a step {self.batch}, learning_rate {self.learning_rate}",
                limit="epochs and items a step at least 1, learning_rate above 0",
                remedy="correct them in the group of the form that they come from",
            )
