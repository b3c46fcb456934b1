"""Teach the compressed model from the original."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, DatasetRef, ModelRef, identity
from tasks.recipes import DistillRecipe
from tasks.retrying import compute_task
from tasks.workbench import followed, measured, open_model, open_tokens, use_threads, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial


@compute_task(
    "distill-T{recipe.temperature}-hard{recipe.hard_share:.0%}",
    cache_policy=StageKey(
        stage="distill",
        modules=(
            "tasks.distill",
            "tasks.compression.distillation",
        ),
    ),
)
def distill(student: ModelRef, teacher: ModelRef, data: DatasetRef, recipe: DistillRecipe, seed: int = 0) -> Compressed:
    """Learn the teacher's next-token distribution. Zeros stay zero; integers stay, their scales and the norms
    learn.
    """
    from tasks.compression.distillation import distill_folder

    use_threads()
    tokens = open_tokens(data, "training")
    steps = math.ceil(len(tokens) / recipe.batch_blocks) * recipe.epochs
    losses: list[float] = []

    def make(folder: Path, partial: Partial) -> None:
        made = distill_folder(
            open_model(student),
            open_model(teacher),
            folder,
            tokens,
            epochs=recipe.epochs,
            batch_blocks=recipe.batch_blocks,
            learning_rate=recipe.learning_rate,
            temperature=recipe.temperature,
            hard_share=recipe.hard_share,
            seed=seed,
            divergence=recipe.divergence,
            hidden_weight=recipe.hidden_weight,
            cached_top_k=recipe.cached_top_k,
            partial=partial,
        )
        losses.extend(step.loss for step in followed("distill", made, steps, "steps"))

    with measured() as meter:
        made_from = {
            "student": student.digest,
            "teacher": teacher.digest,
            "data": data.digest,
            "distill": identity(recipe),
            "seed": seed,
        }
        taught, resumed = write_model(
            made_from, make, stage="distill", key=stage_key(), name=f"{student.name}-distilled", licence=student.licence
        )
    return Compressed(
        stage="distill",
        model=taught,
        losses=tuple(losses),
        tokens=tokens.numel() * recipe.epochs,
        resumed=resumed,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
    )
