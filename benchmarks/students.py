"""Distil a smaller decoder: ``python -m benchmarks.students``.

Structured pruning makes a student with at least 30 % fewer parameters; distillation teaches it from the original, as
the recipe ``prune (structured) → distill`` does. Original, student before and student after are measured on the same
held-out blocks. What is recovered is the share of the lost log-perplexity:

    (log before − log after) ÷ (log before − log original)

``--quick`` takes the seeded two-block model and random tokens: it shows that the benchmark works, and its figures mean
nothing else. Quality depends on the settings alone; wall time on what else the machine does, CPU time less so.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compression_stages import model_folder, token_files
from tasks.recipes import DataChoice, DistillRecipe, PruneRecipe

SHAPE = PruneRecipe(method="structured", heads=0.34, channels=0.42, blocks=0.0)
TEACHING = DistillRecipe(batch_blocks=1, learning_rate=1e-3)


@dataclass(frozen=True)
class Blocks:
    """Blocks of 256 tokens that are looked at when pruning, learnt from, and measured on."""

    calibration: int = 16
    training: int = 40
    held_out: int = 8


@dataclass(frozen=True)
class Row:
    """One model: parameters, and their share of the original's; perplexity, KL in nats, share of same next tokens;
    share of the lost log-perplexity that came back; tokens that it has learnt from and seconds that it took to make.
    """

    model: str
    parameters: int
    parameter_ratio: float
    perplexity: float
    kl: float
    agreement: float
    recovered: float
    tokens: int
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description="What a smaller student recovers of what structured pruning lost.")
    parser.add_argument("--model", help="a Hugging Face folder; the default model when left out")
    parser.add_argument("--heads", type=float, default=SHAPE.heads, help="share of key-value heads removed")
    parser.add_argument("--channels", type=float, default=SHAPE.channels, help="share of MLP channels removed")
    parser.add_argument("--blocks", type=float, default=SHAPE.blocks, help="share of decoder blocks removed")
    parser.add_argument("--calibration", type=int, default=Blocks.calibration, help="blocks of 256 tokens for pruning")
    parser.add_argument("--training", type=int, default=Blocks.training, help="blocks of 256 tokens to learn from")
    parser.add_argument("--held-out", type=int, default=Blocks.held_out, help="blocks of 256 tokens to measure on")
    parser.add_argument("--epochs", type=int, default=TEACHING.epochs, help="passes over them")
    parser.add_argument("--batch", type=int, default=TEACHING.batch_blocks, help="blocks a step")
    parser.add_argument("--learning-rate", type=float, default=TEACHING.learning_rate)
    parser.add_argument("--hidden-weight", type=float, default=TEACHING.hidden_weight)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; torch decides when 0")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, in seconds")
    options = parser.parse_args()
    shape = SHAPE.model_copy(update={"heads": options.heads, "channels": options.channels, "blocks": options.blocks})
    teaching = TEACHING.model_copy(
        update={
            "epochs": options.epochs,
            "batch_blocks": options.batch,
            "learning_rate": options.learning_rate,
            "hidden_weight": options.hidden_weight,
        }
    )
    if not options.json:
        print(f"{'model':15}{'parameters':>12}{'ratio':>7}{'ppl':>9}{'KL':>8}{'agree':>7}{'recovered':>10}", end="")
        print(f"{'tokens':>9}{'wall s':>8}{'CPU s':>7}", flush=True)
    count = Blocks(options.calibration, options.training, options.held_out)
    for row in measure(options.model, shape, teaching, count, options.threads, quick=options.quick):
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
            continue
        quality = f"{row.perplexity:9.2f}{row.kl:8.4f}{row.agreement:7.3f}{row.recovered:10.3f}"
        print(f"{row.model:15}{row.parameters:12,}{row.parameter_ratio:7.3f}{quality}", end="")
        print(f"{row.tokens:9,}{row.wall_s:8.1f}{row.cpu_s:7.1f}", flush=True)


def measure(
    model: str | None, shape: PruneRecipe, teaching: DistillRecipe, count: Blocks, threads: int, *, quick: bool
) -> Iterator[Row]:
    """Original, student before and student after, a row as each is ready; the original's comes with the second."""
    import numpy as np
    import torch

    from tasks.compression.distillation import distill_folder
    from tasks.compression.slimming import slim_folder

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        original = model_folder(model, quick, work)
        # Never fewer of the first two than the default run cuts, so that other counts read the same documents.
        usual = DataChoice()
        data = usual.model_copy(
            update={
                "calibration_blocks": max(count.calibration, usual.calibration_blocks),
                "training_blocks": count.training,
                "evaluation_blocks": max(count.held_out, usual.evaluation_blocks),
            }
        )
        files = token_files(original, data, quick, work)
        cut = (torch.from_numpy(np.load(file, allow_pickle=False)) for file in files)
        counts = (count.calibration, count.training, count.held_out)
        calibration, lessons, held_out = (blocks[:wanted] for blocks, wanted in zip(cut, counts, strict=True))
        print("prune …", file=sys.stderr, flush=True)
        shares = shape.model_dump(include={"heads", "channels", "blocks", "damping"})
        cost = _drawn(slim_folder(original, work / "before", calibration, **shares))
        first, before = _scored(work / "before", original, held_out, "student before", 0, cost)
        yield first
        yield before
        print("distill …", file=sys.stderr, flush=True)
        steps = distill_folder(work / "before", original, work / "after", lessons, **teaching.model_dump(), seed=0)
        cost = _drawn(steps)
        tokens = lessons.numel() * teaching.epochs
        _, after = _scored(work / "after", original, held_out, "student after", tokens, cost)
        lost = math.log(before.perplexity) - math.log(first.perplexity)
        recovered = (math.log(before.perplexity) - math.log(after.perplexity)) / lost
        yield Row(**asdict(after) | {"recovered": round(recovered, 4)})


def _drawn(work: Iterator[object]) -> tuple[float, float]:
    """Wall and CPU seconds of drawing all of ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in work:
        pass
    return round(time.perf_counter() - wall, 1), round(time.process_time() - cpu, 1)


def _scored(
    folder: Path, original: Path, held_out: Any, name: str, tokens: int, cost: tuple[float, float]
) -> tuple[Row, Row]:
    """Rows of the original and of ``folder``."""
    from tasks.compression.folder_facts import describe
    from tasks.compression.scoring import score_pair

    # Decode times are another benchmark's: the least that the scorer takes.
    scores = score_pair(folder, original, held_out, prompt=held_out[0, :8], new_tokens=2, repeats=1)
    whole, left = describe(original).parameters, describe(folder).parameters
    rows = []
    for label, count, score, seen, (wall, cpu) in (
        ("original", whole, scores[1], 0, (0.0, 0.0)),
        (name, left, scores[0], tokens, cost),
    ):
        quality = round(score.perplexity, 3), round(score.kl, 4), round(score.agreement, 4)
        rows.append(Row(label, count, round(count / whole, 4), *quality, 0.0, seen, wall, cpu))
    return rows[0], rows[1]


if __name__ == "__main__":
    main()
