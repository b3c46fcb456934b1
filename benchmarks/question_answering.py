"""Distil an encoder that answers questions: ``python -m benchmarks.question_answering``.

With ``--encoder FOLDER --questions FILE`` on real material: the encoder gets a head and is trained to be the teacher;
a student keeps some of its blocks and then learns from the same questions, once from the teacher's logits and the true
spans, once from the true spans alone, with the same order, steps and learning rate. Whole articles are held out.

Without them on made-up material: a BERT of four blocks learns from nothing to answer questions made from templates
(``synthetic_questions``). Students of two blocks then learn from fewer and other questions, in the same two ways, from
the teacher's embeddings, blocks 0 and 2, and head, or from random weights. Texts this simple say nothing about real
ones. ``--quick`` shows that the benchmark works.

Exact match and F1 are SQuAD's, on questions that no model has seen, with the 95 % interval of F1 over what the
questions were drawn in (articles, or contexts where there are none). Rows with a minus are paired differences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.reader_course import HARD_SHARE, Course, Plan, Row
from benchmarks.reader_material import Material, read_material
from tasks.compression.encoder_students import add_reader_head, encoder_depth, keep_encoder_blocks, spread
from tasks.compression.synthetic_questions import LENGTH, make_questions, write_encoder
from tasks.errors import RefusedRecipe, SlimlineError
from tasks.reader_contracts import Question


@dataclass(frozen=True)
class Size:
    """Questions, and passes over them, of teacher and student; sentences of a context; width of the encoders."""

    teacher_questions: int
    teacher_epochs: int
    student_questions: int
    student_epochs: int
    evaluation_questions: int
    facts: int
    width: int
    learning_rate: float


QUICK, FULL = Size(640, 2, 96, 4, 200, 1, 32, 3e-3), Size(4500, 4, 600, 3, 400, 2, 48, 2e-3)
MADE_UP = Plan(batch_windows=16, learning_rate=0.0, length=LENGTH, stride=16, seed=0)
REAL = Plan(batch_windows=8, learning_rate=2e-4, length=384, stride=128, seed=0)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        rows = _rows(options)
        if not options.json:
            print(Row.head(), flush=True)
        for row in rows:
            print(json.dumps(asdict(row)) if options.json else str(row), flush=True)
    except SlimlineError as error:
        sys.exit(str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exact match and F1 of encoder students with and without a teacher.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="made-up questions, fewer, in seconds")
    parser.add_argument("--threads", type=int, default=1, help="of torch (made-up models gain nothing from more)")
    real = parser.add_argument_group("real material")
    real.add_argument("--encoder", metavar="FOLDER", help="a BERT-type encoder with tokenizer.json")
    real.add_argument("--questions", metavar="FILE", help="SQuAD's .json, or .jsonl as the datasets library has it")
    real.add_argument("--held-out", type=int, default=240, help="questions at least, whole articles of them")
    real.add_argument("--blocks", type=int, default=0, help="that the student keeps; 0: two thirds")
    real.add_argument("--teacher-epochs", type=int, default=4, help="passes of the teacher over the questions")
    real.add_argument("--epochs", type=int, default=2, help="passes of each student")
    real.add_argument("--learning-rate", type=float, default=REAL.learning_rate, help="AdamW's, at its peak")
    options = parser.parse_args()
    if (options.encoder is None) != (options.questions is None):
        parser.error("--encoder and --questions go together: a folder to teach and a file of questions to teach it")
    if options.quick and options.encoder:
        parser.error("--quick takes made-up questions: leave it, or --encoder and --questions, out")
    return options


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    if options.encoder is None:
        return measure(QUICK if options.quick else FULL, seed=options.seed)
    plan = replace(REAL, learning_rate=options.learning_rate, seed=options.seed)
    encoder, epochs = Path(options.encoder).expanduser(), (options.teacher_epochs, options.epochs)
    material = read_material(options.questions, options.held_out, seed=options.seed)
    depth = encoder_depth(encoder)
    blocks = options.blocks or max(1, depth * 2 // 3)
    if not 1 <= blocks < depth:
        raise RefusedRecipe(
            "the student would not be smaller than its teacher",
            observed=f"{blocks} blocks of {depth}",
            limit=f"1 to {depth - 1}",
            remedy="lower --blocks",
        )
    return measure_real(encoder, material, plan, spread(blocks, depth), epochs)


def measure(size: Size, *, seed: int) -> Iterator[Row]:
    """Made-up questions: train the teacher, then each student; a row as each is ready."""
    counts = (size.teacher_questions, size.student_questions, size.evaluation_questions)
    teaching, training, held_out = (
        make_questions(count, seed=3 * seed + number, facts=size.facts) for number, count in enumerate(counts)
    )
    plan = replace(MADE_UP, learning_rate=size.learning_rate, seed=seed)
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        course = Course(Path(name), plan, held_out, [question.context for question in held_out])
        write_encoder(course.work / "raw", blocks=4, width=size.width, seed=seed)
        yield course.train("raw", "teacher", teaching, size.teacher_epochs)
        keep_encoder_blocks(course.work / "teacher", course.work / "blocks 0 and 2", (0, 2))
        write_encoder(course.work / "random", blocks=2, width=size.width, seed=seed + 1)
        for start in ("blocks 0 and 2", "random"):
            yield from _students(course, start, training, size.student_epochs)


def measure_real(
    encoder: Path, material: Material, plan: Plan, kept: tuple[int, ...], epochs: tuple[int, int]
) -> Iterator[Row]:
    """A real encoder: train the teacher, cut it, teach what is left; a row as each is ready."""
    print(material.said(), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        course = Course(Path(name), plan, list(material.held_out), list(material.held_out_units))
        add_reader_head(encoder, course.work / "raw", plan.seed)
        yield course.train("raw", "teacher", material.training, epochs[0])
        start = "blocks " + ",".join(map(str, kept))
        keep_encoder_blocks(course.work / "teacher", course.work / start, kept)
        yield from _students(course, start, material.training, epochs[1])


def _students(course: Course, start: str, questions: Sequence[Question], epochs: int) -> Iterator[Row]:
    yield course.score(start, f"{start}: before")
    hard, distilled = f"{start}: true spans only", f"{start}: distilled"
    yield course.train(start, distilled, questions, epochs, teacher="teacher", hard_share=HARD_SHARE)
    yield course.train(start, hard, questions, epochs)
    yield course.difference("teacher", distilled)
    yield course.difference(distilled, hard)


if __name__ == "__main__":
    main()
