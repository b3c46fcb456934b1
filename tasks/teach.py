"""Train a reader, drop blocks of it, and teach what is left from the whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.questions import read_questions
from tasks.adapters.store import Store
from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, ModelRef, Stage, identity
from tasks.locate_reader import describe_reader
from tasks.reader_contracts import Question, QuestionsRef
from tasks.reader_recipes import ReaderRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import followed, learned, measured, open_model, use_threads, write_model

if TYPE_CHECKING:
    from tasks.compression.resuming import Partial
    from tasks.compression.training_loop import StepResult

MODULES = ("tasks.teach", "tasks.compression.question_answering", "tasks.compression.encoder_students")


@compute_task("train-teacher-{encoder.name}", cache_policy=StageKey(stage="train-teacher", modules=MODULES))
def train_teacher(encoder: ModelRef, data: QuestionsRef, recipe: ReaderRecipe) -> Compressed:
    """Fine-tune the encoder on the teaching questions' true spans, with a fresh head where it has none."""
    from tasks.compression.encoder_students import add_reader_head

    with tempfile.TemporaryDirectory(prefix="slimline-headed-") as name:
        headed = Path(name) / "model"
        add_reader_head(open_model(encoder), headed, recipe.seed)
        return _taught("train-teacher", encoder, headed, None, data, recipe)


@compute_task("drop-blocks-{recipe.blocks}-left", cache_policy=StageKey(stage="drop-blocks", modules=MODULES))
def drop_blocks(teacher: ModelRef, recipe: ReaderRecipe) -> Compressed:
    """A student that has the teacher's embeddings, head, and ``recipe.blocks`` of its blocks."""
    from tasks.compression.encoder_students import encoder_depth, keep_encoder_blocks, spread

    source = open_model(teacher)
    kept = spread(recipe.blocks, encoder_depth(source))
    with measured() as meter, Store(settings().store).draft("models") as draft:
        with tempfile.TemporaryDirectory(dir=draft.path.parent) as name:
            keep_encoder_blocks(source, Path(name) / "model", kept)
            for file in (Path(name) / "model").iterdir():
                file.replace(draft.path / file.name)
        draft.made_from = {"teacher": teacher.digest, "kept": list(kept)}
    student = describe_reader(draft.stored, name=f"{teacher.name}-{len(kept)}blocks", licence=teacher.licence)
    return Compressed(stage="drop-blocks", model=student, seconds=meter.seconds, peak_bytes=meter.peak_bytes)


@compute_task(
    "teach-reader-T{recipe.temperature}-hard{recipe.hard_share:.0%}",
    cache_policy=StageKey(stage="teach-reader", modules=MODULES),
)
def teach_reader(student: ModelRef, teacher: ModelRef, data: QuestionsRef, recipe: ReaderRecipe) -> Compressed:
    """Learn the teacher's start and end logits and the true spans of the training questions."""
    return _taught("teach-reader", student, open_model(student), teacher, data, recipe)


def _taught(
    stage: Stage, student: ModelRef, folder: Path, teacher: ModelRef | None, data: QuestionsRef, recipe: ReaderRecipe
) -> Compressed:
    """Train what lies in ``folder``, whose handle is ``student``, and store it."""
    use_threads()
    own = "training" if data.training else "teaching"
    split, suffix = ("teaching", "teacher") if teacher is None else (own, "distilled")
    questions = read_questions(Store(settings().store).open(data.uri, data.digest), split)
    epochs = recipe.teacher_epochs if teacher is None else recipe.epochs
    steps: list[StepResult] = []

    def make(destination: Path, partial: Partial) -> None:
        made = _steps(folder, teacher, destination, questions, recipe, epochs, partial)
        first = next(made)  # it knows how many there are: a long context makes several windows
        steps.extend(followed(stage, chain([first], made), first.steps, "steps"))

    made_from = {
        "student": student.digest,
        "teacher": teacher.digest if teacher else "",
        "data": data.digest,
        "recipe": identity(recipe),
    }
    names = {"name": f"{student.name}-{suffix}", "licence": student.licence}
    with measured() as meter:
        written = write_model(made_from, make, stage=stage, key=stage_key(), describe=describe_reader, **names)
    return learned(stage, written, steps, seconds=meter.seconds, peak_bytes=meter.peak_bytes)


def _steps(
    folder: Path,
    teacher: ModelRef | None,
    destination: Path,
    questions: list[Question],
    recipe: ReaderRecipe,
    epochs: int,
    partial: Partial,
) -> Iterator[StepResult]:
    from tasks.compression.question_answering import distill_reader

    return distill_reader(
        folder,
        None if teacher is None else open_model(teacher),
        destination,
        questions,
        epochs=epochs,
        batch_windows=recipe.batch_windows,
        learning_rate=recipe.learning_rate,
        temperature=recipe.temperature,
        hard_share=1.0 if teacher is None else recipe.hard_share,
        seed=recipe.seed,
        length=recipe.window,
        stride=recipe.stride,
        partial=partial,
    )
