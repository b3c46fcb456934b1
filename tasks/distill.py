"""Teach the compressed model from the original."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, DatasetRef, ModelRef, identity
from tasks.recipes import DistillRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.stage_child import StageChild
from tasks.workbench import followed, measured, open_model, open_tokens, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

# Fields of the recipe that ``distill_folder`` takes under the same name.
ARGUMENTS = {
    "epochs",
    "batch_blocks",
    "learning_rate",
    "temperature",
    "hard_share",
    "divergence",
    "hidden_weight",
    "cached_top_k",
}


@compute_task(
    "distill-T{recipe.temperature}-hard{recipe.hard_share:.0%}",
    cache_policy=StageKey(
        stage="distill",
        modules=("tasks.distill", "tasks.compression.child", "tasks.compression.distillation"),
    ),
)
def distill(student: ModelRef, teacher: ModelRef, data: DatasetRef, recipe: DistillRecipe, seed: int = 0) -> Compressed:
    """Learn the teacher's next-token distribution. Zeros stay zero; integers stay, their scales and the norms
    learn.
    """
    from tasks.compression.training_loop import StepResult

    tokens = open_tokens(data, "training")
    steps = math.ceil(len(tokens) / recipe.batch_blocks) * recipe.epochs
    losses: list[float] = []

    child = StageChild(settings().threads)

    def make(folder: Path, partial: Partial) -> None:
        folders = open_model(student), open_model(teacher), folder
        arguments = {**recipe.model_dump(include=ARGUMENTS), "seed": seed}
        made = child.run("distill_folder", folders, tokens, arguments, partial, StepResult)
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
        peak_bytes=child.peak_bytes,
        retries=tuple(child.notes),
    )
