"""Fine-tune a dense folder on token blocks: next-token cross entropy, AdamW, every parameter or low-rank additions.

What learns is in ``low_rank``, how in ``training_loop``. Blocks are taken as they were cut: documents that share one
are joined by the end-of-text token and see one another, as in pretraining.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_calibration, check_choice
from tasks.compression.limits import check_language_model
from tasks.compression.losses import next_token_loss
from tasks.compression.low_rank import Additions, Everything, LowRank, Tuned
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.teaching import Headed
from tasks.compression.training_loop import Lesson, StepResult, train
from tasks.compression.writing import FolderWriter
from tasks.errors import RefusedModel, RefusedRecipe

Method = Literal["lora", "full"]
METHODS: tuple[Method, ...] = ("lora", "full")


@dataclass(frozen=True)
class Tuning(Schedule):
    """A schedule with a warm-up of its own and, where ``most_steps`` is not 0, an earlier end."""

    warmup: float
    most_steps: int

    @property
    def steps(self) -> int:
        whole = super().steps
        return min(whole, self.most_steps) if self.most_steps else whole

    @property
    def warmup_steps(self) -> int:
        return max(1, round(self.warmup * self.steps))

    def batches(self) -> Iterator[Tensor]:
        return islice(super().batches(), self.steps)

    def check(self) -> None:
        """As a schedule's, and the two of its own.

        Raises:
            RefusedRecipe: a number out of range.
        """
        super().check()
        if not 0 <= self.warmup < 1 or self.most_steps < 0:
            raise RefusedRecipe(
                "the training cannot run with these numbers",
                observed=f"warmup {self.warmup:g}, max_steps {self.most_steps}",
                limit="warmup 0 to below 1, max_steps at least 0",
                remedy="correct the training group",
            )


def finetune_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: Method,
    epochs: int,
    batch_blocks: int,
    learning_rate: float,
    seed: int,
    rank: int = 16,
    alpha: float = 32.0,
    targets: Sequence[str] = (),
    warmup: float = 0.1,
    max_steps: int = 0,
    save_steps: int = 0,
    partial: Partial | None = None,
) -> Iterator[StepResult]:
    """Train ``source`` on ``tokens`` and write the new folder ``destination``, of the same shape and type.

    Inputs are checked at the call; the work is done as the iterator is drawn, a result a step, and the folder is
    written when it is exhausted. An iterator that is closed early, or an error, writes nothing.

    Args:
        source: dense folder.
        destination: absent, or an empty folder.
        tokens: (blocks, length) integers, training split.
        method: full lets every parameter learn; lora adds to linear layers, see ``low_rank``.
        epochs: passes over all blocks, each in an order of its own from ``seed``.
        batch_blocks: blocks a step.
        learning_rate: peak, absolute (AdamW's).
        rank, alpha, targets: of ``LowRank``; not looked at with method full.
        warmup: share of the steps in which the rate rises, at least one.
        max_steps: the training ends there if not earlier, its schedule too; 0 leaves it to the epochs.
        save_steps: the state is kept every so many steps, and every ``training_loop.SAVE_SECONDS``; 0: those only.
        partial: where the state is kept. A training that was killed and is started again with the same arguments and
            folder yields the finished steps at once, goes on after them, and ends with the same bytes.

    Raises:
        RefusedData: no tokens, ids outside the vocabulary, or blocks longer than the model's table of positions.
        RefusedModel: the folder cannot be read, or its weights are packed.
        RefusedRecipe: a number out of range, or a target that no layer has.
        SlimlineError: the loss or a gradient is no longer finite; nothing is written.
    """
    check_tunable(source, method, rank, alpha, targets)
    checkpoint = Checkpoint(source)
    check_calibration(checkpoint, tokens)
    plan = Tuning(len(tokens), epochs, batch_blocks, learning_rate, seed, warmup, max_steps)
    plan.check()
    how = LowRank(rank, alpha, tuple(targets)) if method == "lora" else None
    return _finetune(checkpoint, destination, tokens, plan, how, save_steps, partial)


def check_tunable(source: Path, method: str, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Refuse what cannot be trained, from config.json and shard headers alone.

    Raises:
        RefusedModel, RefusedRecipe: see ``finetune_folder``.
    """
    check_choice("training method", method, METHODS)
    check_language_model(source)
    checkpoint = Checkpoint(source)
    if checkpoint.packing is not None:
        raise RefusedModel(
            "weights that are stored as integers cannot be fine-tuned",
            observed=f"layers stored as {checkpoint.layout}",
            limit="a dense folder",
            remedy="give the folder that it was compressed from; it is compressed again after the training",
        )
    if method == "lora":
        LowRank(rank, alpha, tuple(targets)).layers(checkpoint)


def _finetune(
    checkpoint: Checkpoint,
    destination: Path,
    tokens: Tensor,
    plan: Tuning,
    how: LowRank | None,
    save_steps: int,
    partial: Partial | None,
) -> Iterator[StepResult]:
    started = time.perf_counter()
    headed = Headed.load(checkpoint.folder)
    learner: Tuned = (
        Everything(headed.model, checkpoint) if how is None else Additions(headed.model, checkpoint, how, plan.seed)
    )

    def lesson(blocks: Tensor) -> Lesson:
        part = tokens[blocks].long().to(headed.head.device)
        loss = next_token_loss(headed.states(part), headed.head, part[:, 1:].flatten(), cap=headed.cap)
        return Lesson(loss, torch.zeros(()), loss.detach(), torch.zeros(()))

    length = tokens.shape[1]
    yield from train(learner, lesson, plan, length, partial=partial, started=started, save_steps=save_steps)
    _write(checkpoint, learner, destination)


def _write(checkpoint: Checkpoint, learner: Tuned, destination: Path) -> None:
    with FolderWriter(checkpoint, destination) as writer:
        for index in range(checkpoint.blocks):
            writer.write_block(
                index, {name: learner.stored(checkpoint, name) for name in checkpoint.block_names(index)}
            )
        writer.write_outer({name: learner.stored(checkpoint, name) for name in checkpoint.outer_names()})
