"""The evidence that a scorecard rests on: per-item results, slices, generated answers, latency under load, tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from tasks.values import Place, Value

Verdict = Literal["passed", "failed", "inconclusive", "suspect"]


class ItemsRef(Value):
    """Results item by item, in the artifact store: ``items.jsonl`` (a held-out block a line),
    ``token_kl.safetensors`` and, where they were asked for, ``answers.jsonl`` and ``documents.jsonl``.
    """

    uri: Annotated[str, Place]
    digest: str = Field(description="SHA-256 over the artifact's files")
    items: int = Field(description="Held-out blocks; tokens of one block depend on each other, so a block counts once")
    positions: int = Field(description="Scored positions over all of them")


class GateCheck(Value):
    """One metric against its limit."""

    metric: str
    observed: float
    limit: float
    sense: Literal["at most", "at least"]
    passed: bool
    remedy: str
    verdict: Verdict | None = Field(
        default=None,
        description="inconclusive: inside the limit, but with so few items it may as well be outside; suspect: better "
        "than the original by more than compression can make it",
    )
    bound: float | None = Field(
        default=None,
        description="The end of the figure's one-sided interval that was held against the limit; none: the figure is "
        "exact, or there are no results item by item and the figure alone was compared",
    )
    confidence: float | None = Field(default=None, description="Of the bound, 0 to 1")
    items: int = Field(default=0, description="Items that the interval rests on")
    needed_items: int | None = Field(
        default=None,
        description="Items with which a candidate that is truly as observed passes eight times in ten; none: the "
        "figure itself is outside the limit, or exact",
    )
    worse_p: float | None = Field(
        default=None,
        description="Chance of such a figure if the truth were at the limit, adjusted by Holm over all checks of the "
        "gate: below 1 − confidence, that it is outside is shown and no accident of the items",
    )

    @property
    def said(self) -> Verdict:
        return self.verdict or ("passed" if self.passed else "failed")


def worst(checks: Sequence[GateCheck]) -> Verdict:
    """The worst of the checks' verdicts: one of them stops the candidate as well as all. Without checks it failed."""
    said = {check.said for check in checks}
    order: tuple[Verdict, ...] = ("failed", "suspect", "inconclusive")
    passed = bool(checks) and all(check.passed for check in checks)
    return next((each for each in order if each in said), "passed" if passed else "failed")


SLICE_CONFIDENCE = 0.95  # of each end of a slice's interval


class SliceScore(Value):
    """A part of the held-out positions."""

    name: str
    by: Literal["text", "label"] = Field(
        default="text", description="text: place and length; label: what the source marks its documents with"
    )
    positions: int
    blocks: int = Field(
        default=0, description="Held-out blocks that they stand in; 0: an earlier version did not count"
    )
    baseline_perplexity: float
    candidate_perplexity: float
    agreement: float
    ratio_lower: float | None = Field(
        default=None, description="Lower end of the one-sided 95 % interval of the ratio, paired over blocks"
    )
    ratio_upper: float | None = Field(default=None, description="The same at the upper end; none from one block alone")

    @property
    def ratio(self) -> float:
        """Perplexity, candidate ÷ original."""
        return self.candidate_perplexity / self.baseline_perplexity


class AnswerFigures(Value):
    """What one model wrote after the held-out prompts, greedily."""

    empty: float = Field(description="Share of answers without a word")
    loops: float = Field(description="Share of answers that end in the same words three times over, or more")
    distinct: float = Field(description="Different pairs of neighbouring tokens ÷ all pairs, mean over answers")
    tokens: float = Field(description="Mean length of an answer")


class Generation(Value):
    """Both models' answers to the same held-out prompts."""

    prompts: int
    new_tokens: int = Field(description="Tokens an answer, at most")
    baseline: AnswerFigures
    candidate: AnswerFigures
    same: float = Field(description="Share of answers that are equal")
    same_start: float = Field(description="Leading tokens that are equal ÷ tokens of the longer answer, mean")


class LoadFigure(Value):
    """One model served by the inference container on this machine, under one number of requests at a time."""

    side: Literal["original", "candidate"]
    concurrency: int
    requests: int
    failed: int
    first_token_p50_ms: float
    first_token_p90_ms: float
    per_token_p50_ms: float = Field(description="From the first token of an answer to its last ÷ the tokens between")
    per_token_p90_ms: float
    tokens_per_second: float = Field(description="Over all requests of this level together")
    peak_bytes: int = Field(description="Highest resident memory of the serving process up to the end of this level")


class TaskScore(Value):
    """One task of lm-evaluation-harness, both models on the same documents."""

    task: str
    metric: str
    items: int
    baseline: float
    candidate: float
    drop_upper: float | None = Field(
        description="Upper end of the one-sided 95 % interval of original less candidate, paired over documents"
    )
    p: float | None = Field(description="Exact test of McNemar, two-sided: the two differ by accident")


class LoadFigures(Value):
    """What measuring latency and throughput gives."""

    levels: tuple[LoadFigure, ...]


class Evidence(Value):
    """What the scorecard's figures rest on, and what else was measured on the same pair of models."""

    items: ItemsRef
    slices: tuple[SliceScore, ...] = ()
    generation: Generation | None = None
    load: tuple[LoadFigure, ...] = ()
    tasks: tuple[TaskScore, ...] = ()
    documents: ItemsRef | None = Field(default=None, description="Scores of the tasks, document by document")


class TextFigures(Value):
    """One model against the held-out text alone, with how it differs from the model before training, paired over
    blocks. Each end is that of a one-sided interval; none where there are too few blocks for any.
    """

    role: Literal["start", "trained", "served", "champion"]
    name: str
    perplexity: float
    accuracy: float = Field(description="Share of positions where it predicts the true next token")
    ratio: float = Field(description="Perplexity ÷ the one before training; below 1 is better")
    ratio_lower: float | None
    ratio_upper: float | None
    rise: float = Field(description="Accuracy less the one before training; above 0 is better")
    rise_lower: float | None
    rise_upper: float | None


class TrainingGain(Value):
    """What training itself changed: the model before it on the held-out blocks of the scorecard."""

    start: str = Field(description="Name of the model that was trained")
    digest: str = Field(description="Of its folder")
    items: ItemsRef
    min_gain: float = Field(default=0.0, description="Fall of perplexity that was asked for, share; 0: not asked")
    confidence: float = Field(default=0.95, description="Of each interval")
    rows: tuple[TextFigures, ...] = Field(default=(), description="Empty until the run is judged")

    def row(self, role: str) -> TextFigures | None:
        return next((each for each in self.rows if each.role == role), None)
