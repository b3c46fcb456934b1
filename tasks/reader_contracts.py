"""The values of the question-answering line, as ``contracts`` has those of the language-model line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tasks.contracts import Compressed, GateCheck, ModelRef, Place, RegisteredModel, Tracked, Value
from tasks.evidence_contracts import Verdict, worst


@dataclass(frozen=True)
class Question:
    """A question whose answer stands in ``context``.

    Attributes:
        answers: accepted ones, at least one; the first is what is learnt.
        start: where the first begins, in characters of ``context``.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    start: int


QUESTION_SPLITS = ("teaching", "training", "evaluation")


class QuestionsRef(Value):
    """Questions in the artifact store: three splits that share no context."""

    uri: Annotated[str, Place]
    digest: str = Field(description="SHA-256 over the artifact's files")
    name: Annotated[str, Place]
    licence: Annotated[str, Place]
    teaching: int = Field(description="Questions that a teacher is trained on")
    training: int = Field(description="Questions that the student learns from; 0: the teaching ones")
    evaluation: int = Field(description="Held-out questions that the gate compares on")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of those that hold any questions."""
        return tuple(split for split in QUESTION_SPLITS if getattr(self, split))


class ReaderScore(Value):
    """One reloaded reader on the held-out questions."""

    exact_match: float = Field(description="Share of answers that are exactly right, 0 to 1, as SQuAD counts")
    f1: float = Field(description="Mean overlap in words, 0 to 1, as SQuAD counts")
    bytes: int
    ms_per_question: float = Field(description="Computing alone, milliseconds")
    questions: int


class ReaderScorecard(Value):
    """Student and teacher on the same held-out questions, and the gate's verdict."""

    candidate_model: ModelRef
    baseline_model: ModelRef
    dataset_digest: str
    candidate: ReaderScore
    baseline: ReaderScore
    before: ReaderScore = Field(description="The student before it was taught")
    f1_drop: float = Field(description="Teacher's F1 less the student's")
    f1_drop_upper: float = Field(
        description="Upper end of its one-sided 95 % interval, paired studentised bootstrap over contexts"
    )
    f1_drop_error: float = Field(default=0.0, description="Its standard error over contexts")
    exact_drop: float = Field(default=0.0, description="Teacher's exact match less the student's")
    exact_drop_upper: float = 1.0
    exact_drop_error: float = 0.0
    exact_p: float | None = Field(
        default=None,
        description="Exact test of signs over contexts (McNemar's where each has one question): right by accident",
    )
    contexts: int = Field(default=0, description="Held-out contexts: their questions are right or wrong together")
    checks: tuple[GateCheck, ...]
    sample: str = Field(default="", description="A held-out question and what the student answers")

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks' verdicts."""
        return worst(self.checks)

    @property
    def served_model(self) -> ModelRef:
        """The folder whose score is the candidate's."""
        return self.candidate_model

    def rows(self) -> list[tuple[str, str, str]]:
        """(metric, teacher, student), as people read them."""
        was, now, before = self.baseline, self.candidate, self.before
        return [
            ("exact match", f"{was.exact_match:.1%}", f"{now.exact_match:.1%} ({before.exact_match:.1%} untaught)"),
            ("F1", f"{was.f1:.1%}", f"{now.f1:.1%} ({before.f1:.1%} untaught)"),
            ("exact match lost, 95 % upper end", "", f"{self.exact_drop_upper:.1%}{_by_accident(self.exact_p)}"),
            ("bytes on disk", f"{was.bytes:,}", f"{now.bytes:,}"),
            ("parameters", f"{self.baseline_model.parameters:,}", f"{self.candidate_model.parameters:,}"),
            ("time per question, ms", f"{was.ms_per_question:.1f}", f"{now.ms_per_question:.1f}"),
        ]

    def metrics(self) -> dict[str, float]:
        """For MLflow: every side's figures, and the drop."""
        sides = {"candidate": self.candidate, "baseline": self.baseline, "before": self.before}
        found = {f"{side}_{name}": float(value) for side, score in sides.items() for name, value in score}
        return found | {
            "gate_passed": float(self.passed),
            "f1_drop": self.f1_drop,
            "f1_drop_upper": self.f1_drop_upper,
            "bytes_ratio": self.candidate.bytes / self.baseline.bytes,
        }

    def markdown(self) -> str:
        """The verdict as a short text with two tables."""
        verdict, questions = "passed" if self.passed else "failed", f"{self.candidate.questions:,} held-out questions"
        lines = [f"**Gate {verdict}**: {self.candidate_model.name}, compared on {questions}", ""]
        lines += ["| metric | teacher | student |", "|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        lines += ["", "| check | observed | limit | |", "|---|---|---|---|"]
        for check in self.checks:
            end = "passed" if check.passed else f"{check.said}: {check.remedy}"
            lines.append(f"| {check.metric} | {check.observed:.4g} | {check.sense} {check.limit:.4g} | {end} |")
        if self.sample:
            lines += ["", f"The student answers: {self.sample}"]
        return "\n".join(lines) + "\n"


class MadeReader(Value):
    """Everything that was computed for one reader, before anything is registered."""

    original: ModelRef = Field(description="The encoder that the run began with")
    teacher: ModelRef = Field(description="What the student learnt from: that encoder, or it after its own training")
    data: QuestionsRef
    stages: tuple[Compressed, ...]
    reused: tuple[str, ...] = Field(default=(), description="Stages that were answered from the cache")
    scorecard: ReaderScorecard


class ReaderOutcome(Value):
    """What one run of the question-answering flow did."""

    teacher: ModelRef
    data: QuestionsRef
    stages: tuple[Compressed, ...]
    scorecard: ReaderScorecard
    registered: RegisteredModel
    tracked: Tracked


def _by_accident(p: float | None) -> str:
    return "" if p is None else f" (p of a difference {p:.2g})"
