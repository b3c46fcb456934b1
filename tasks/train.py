"""Train the uncompressed model on the text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, DatasetRef, ModelRef, identity
from tasks.retrain_plan import Training
from tasks.retrying import compute_task, network_task
from tasks.settings import settings
from tasks.stage_child import StageChild
from tasks.workbench import followed, learned, measured, open_model, open_tokens, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial

SUFFIX = "-tuned"


@network_task("fit-{training.method}")
def check_training(model: ModelRef, training: Training) -> None:
    """Check the training against the model's architecture and shapes, from its headers alone.

    Raises:
        Refused: weights that are integers, a target that no layer has, or a rank above a layer's size.
    """
    from tasks.compression.finetuning import check_tunable

    check_tunable(open_model(model), training.method, training.rank, training.alpha, training.targets)


@compute_task(
    "train-{training.method}-{training.epochs}x{data.training_blocks}",
    cache_policy=StageKey(
        stage="train", modules=("tasks.train", "tasks.compression.child", "tasks.compression.finetuning")
    ),
)
def train(model: ModelRef, data: DatasetRef, training: Training) -> Compressed:
    """Learn the training blocks' next tokens. The folder that comes out is dense and of the same shape and type; a
    killed training goes on after the last step that was kept, and ends with the same bytes.

    Raises:
        Refused: see ``check_training``; or blocks that the model cannot read.
        SlimlineError: the loss is no longer finite.
    """
    from tasks.compression.finetuning import Tuning
    from tasks.compression.training_loop import StepResult

    tokens = open_tokens(data, "training")
    arguments = training.model_dump(mode="json")
    plan = Tuning(
        len(tokens), training.epochs, training.batch_blocks, training.learning_rate, training.seed, training.warmup,
        training.max_steps,
    )  # fmt: skip
    steps: list[StepResult] = []
    child = StageChild(settings().threads)

    def make(folder: Path, partial: Partial) -> None:
        made = child.run("finetune_folder", (open_model(model), folder), tokens, arguments, partial, StepResult)
        steps.extend(followed("train", made, plan.steps, "steps"))

    with measured() as meter:
        made_from = {"model": model.digest, "data": data.digest, "train": identity(training)}
        name = f"{model.name.removesuffix(SUFFIX)}{SUFFIX}"
        written = write_model(made_from, make, stage="train", key=stage_key(), name=name, licence=model.licence)
    return learned("train", written, steps, seconds=meter.seconds, peak_bytes=child.peak_bytes, retries=child.notes)
