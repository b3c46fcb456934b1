"""Readers that are trained and scored alike: what ``question_answering`` compares."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.compression.paired import PairedMean, by_group
from tasks.compression.question_answering import distill_reader, evaluate_reader
from tasks.compression.spans import AnswerScore
from tasks.reader_contracts import Question

TEMPERATURE, HARD_SHARE = 2.0, 0.1  # the recipe's defaults
ONE_SIDE = 0.975  # two such ends hold 95 %


@dataclass(frozen=True)
class Plan:
    """What all trainings share; ``length`` and ``stride`` of the windows, tokens."""

    batch_windows: int
    learning_rate: float
    length: int
    stride: int
    seed: int


@dataclass(frozen=True)
class Row:
    """One model, or the difference of two: shares 0 to 1 on unseen questions, the 95 % interval of F1, bytes of the
    folder's weights, optimizer steps, wall and CPU seconds of its training.
    """

    model: str
    blocks: int
    bytes: int
    exact_match: float
    f1: float
    f1_low: float
    f1_high: float
    steps: int
    seconds: float
    cpu_s: float

    @staticmethod
    def head() -> str:
        return f"{'model':60}{'blocks':>7}{'MB':>7}{'EM':>8}{'F1':>8}{'95 % of F1':>17}{'steps':>7}{'s':>8}{'CPU s':>8}"

    def __str__(self) -> str:
        shares = f"{self.exact_match:8.3f}{self.f1:8.3f}{self.f1_low:9.3f}{self.f1_high:8.3f}"
        size = f"{self.blocks:7}{self.bytes / 1e6:7.1f}"
        return f"{self.model:60}{size}{shares}{self.steps:7}{self.seconds:8.1f}{self.cpu_s:8.1f}"


@dataclass
class Course:
    """Models below ``work``, by name; ``units`` name what each held-out question was drawn in."""

    work: Path
    plan: Plan
    held_out: Sequence[Question]
    units: Sequence[str]
    scores: dict[str, AnswerScore] = field(default_factory=dict)

    def train(
        self,
        start: str,
        name: str,
        questions: Sequence[Question],
        epochs: int,
        *,
        teacher: str | None = None,
        hard_share: float = 1.0,
    ) -> Row:
        """Train the model ``start`` into ``name``, and score it."""
        print(f"{name} …", file=sys.stderr, flush=True)
        began, cpu = time.perf_counter(), time.process_time()
        steps = distill_reader(
            self.work / start,
            None if teacher is None else self.work / teacher,
            self.work / name,
            questions,
            epochs=epochs,
            batch_windows=self.plan.batch_windows,
            learning_rate=self.plan.learning_rate,
            temperature=TEMPERATURE,
            hard_share=hard_share,
            seed=self.plan.seed,
            length=self.plan.length,
            stride=self.plan.stride,
        )
        count = 0
        for step in steps:
            count = step.step
            if count % 20 == 0:
                print(f"  step {count} of {step.steps}, loss {step.loss:.3f}", file=sys.stderr, flush=True)
        return self.score(name, name, count, time.perf_counter() - began, time.process_time() - cpu)

    def score(self, folder: str, name: str, steps: int = 0, seconds: float = 0.0, cpu_s: float = 0.0) -> Row:
        """The row of the model in ``folder``, reloaded."""
        path = self.work / folder
        found = evaluate_reader(path, self.held_out, length=self.plan.length, stride=self.plan.stride)
        self.scores[name] = found
        config = json.loads((path / "config.json").read_text())
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        low, high = self._interval(found.each_f1)
        blocks = int(config["num_hidden_layers"])
        return Row(
            name, blocks, size, found.exact_match, found.f1, low, high, steps, round(seconds, 2), round(cpu_s, 2)
        )

    def difference(self, one: str, other: str) -> Row:
        """``one`` − ``other``, paired by question."""
        left, right = self.scores[one], self.scores[other]
        low, high = self._interval(np.subtract(left.each_f1, right.each_f1).tolist())
        exact, f1 = left.exact_match - right.exact_match, left.f1 - right.f1
        return Row(f"{one} − {other.rpartition(': ')[2]}", 0, 0, exact, f1, low, high, 0, 0.0, 0.0)

    def _interval(self, values: Sequence[float]) -> tuple[float, float]:
        mean = PairedMean(*by_group(np.asarray(values), list(self.units)))
        low, high = mean.lower(ONE_SIDE), mean.upper(ONE_SIDE)
        return (-1.0 if low is None else low), (1.0 if high is None else high)
