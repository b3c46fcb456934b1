"""Teach a compressed model from the original: logit distillation that keeps zeros zero and integers as they are.

What is asked of the student is in ``teaching`` and ``losses``, what learns is in ``trainable``, how in
``training_loop``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import refuse_final
from tasks.compression.divergences import DivergenceName
from tasks.compression.limits import check_language_model, check_tokens
from tasks.compression.resuming import Partial
from tasks.compression.schedule import Schedule
from tasks.compression.teaching import Headed, Terms, teaching
from tasks.compression.trainable import Trainable, make_trainable
from tasks.compression.training_loop import Lesson, StepResult, train
from tasks.compression.writing import FolderWriter
from tasks.errors import RefusedModel


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
        partial: where the state is kept (``training_loop.SAVE_SECONDS``). A distillation that was killed and is started
            again with the same arguments and folder yields the finished steps at once, goes on after them, and ends
            with the same bytes.

    Raises:
        RefusedData: no tokens, or ids outside the vocabulary.
        RefusedModel: a folder cannot be read, the vocabularies differ, or hidden states are to be compared and cannot.
        RefusedRecipe: a number out of range, or options that exclude each other.
        SlimlineError: the loss or a gradient is no longer finite; nothing is written.
    """
    check_language_model(student)
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


def _distill(
    folders: tuple[Checkpoint, Checkpoint], destination: Path, tokens: Tensor, plan: _Plan, partial: Partial | None
) -> Iterator[StepResult]:
    started = time.perf_counter()
    student = Headed.load(folders[0].folder)
    with teaching(student, folders, tokens, plan.terms, partial) as teach:
        trainable = make_trainable(student.model, folders[0])

        def lesson(blocks: Tensor) -> Lesson:
            return teach(student, tokens[blocks].long().to(student.head.device), blocks)

        yield from train(trainable, lesson, plan, tokens.shape[1], partial=partial, started=started)
    _write(folders[0], trainable, destination)


def _write(checkpoint: Checkpoint, trainable: Trainable, destination: Path) -> None:
    def learnt(names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: trainable.stored(checkpoint, name) for name in names}

    with FolderWriter(checkpoint, destination, checkpoint.packing) as writer:
        for index in range(checkpoint.blocks):
            writer.write_block(index, learnt(checkpoint.block_names(index)))
        writer.write_outer(learnt(checkpoint.outer_names()))
