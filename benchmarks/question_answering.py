"""Distil an encoder that answers questions: ``python -m benchmarks.question_answering``.

A BERT of four blocks learns from nothing to answer questions made from templates (``synthetic_questions``). Students of
two blocks then learn from fewer questions, once from the true spans alone and once from the teacher too, with the same
questions, order, steps and learning rate. Students begin with the teacher's embeddings, blocks 0 and 2, and head, or
with random weights. Exact match and F1 are SQuAD's, on questions that none of them has seen. ``--quick`` shows that the
benchmark works; texts this simple say nothing about real ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tasks.compression.encoder_students import keep_encoder_blocks
from tasks.compression.question_answering import distill_reader, evaluate_reader
from tasks.compression.synthetic_questions import LENGTH, make_questions, write_encoder
from tasks.reader_contracts import Question

STRIDE = 16


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


@dataclass(frozen=True)
class Row:
    """One model: shares 0 to 1 on unseen questions, optimizer steps and seconds of its training."""

    model: str
    blocks: int
    exact_match: float
    f1: float
    steps: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact match and F1 of encoder students with and without a teacher.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="fewer questions, in seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    if not options.json:
        print(f"{'model':36}{'blocks':>7}{'EM':>7}{'F1':>7}{'steps':>7}{'s':>7}", flush=True)
    for row in measure(QUICK if options.quick else FULL, seed=options.seed):
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
            continue
        figures = f"{row.blocks:7}{row.exact_match:7.3f}{row.f1:7.3f}{row.steps:7}{row.seconds:7.1f}"
        print(f"{row.model:36}{figures}", flush=True)


def measure(size: Size, *, seed: int) -> Iterator[Row]:
    """Train the teacher, then each student; a row as each is ready."""
    texts = [
        make_questions(count, seed=3 * seed + number, facts=size.facts)
        for number, count in enumerate((size.teacher_questions, size.student_questions, size.evaluation_questions))
    ]
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        write_encoder(work / "raw", blocks=4, width=size.width, seed=seed)
        steps, seconds = _teach(work / "raw", None, work / "teacher", texts[0], size.teacher_epochs, 1.0, size, seed)
        yield _row("teacher", work / "teacher", texts[2], steps, seconds)
        keep_encoder_blocks(work / "teacher", work / "blocks 0 and 2", (0, 2))
        write_encoder(work / "random", blocks=2, width=size.width, seed=seed + 1)
        for start in ("blocks 0 and 2", "random"):
            yield _row(f"from {start}: before", work / start, texts[2], 0, 0.0)
            for kind, guide, share in (("true spans only", None, 1.0), ("distilled", work / "teacher", 0.1)):
                print(f"{start}, {kind} …", file=sys.stderr, flush=True)
                out = work / f"{start}, {kind}"
                steps, seconds = _teach(work / start, guide, out, texts[1], size.student_epochs, share, size, seed)
                yield _row(f"from {start}: {kind}", out, texts[2], steps, seconds)


def _teach(
    student: Path,
    teacher: Path | None,
    out: Path,
    questions: list[Question],
    epochs: int,
    hard_share: float,
    size: Size,
    seed: int,
) -> tuple[int, float]:
    started = time.perf_counter()
    steps = distill_reader(
        student,
        teacher,
        out,
        questions,
        epochs=epochs,
        batch_windows=16,
        learning_rate=size.learning_rate,
        temperature=2.0,
        hard_share=hard_share,
        seed=seed,
        length=LENGTH,
        stride=STRIDE,
    )
    return sum(1 for _ in steps), round(time.perf_counter() - started, 2)


def _row(name: str, folder: Path, questions: list[Question], steps: int, seconds: float) -> Row:
    score = evaluate_reader(folder, questions, length=LENGTH, stride=STRIDE)
    blocks = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    return Row(name, blocks, score.exact_match, score.f1, steps, seconds)


if __name__ == "__main__":
    main()
