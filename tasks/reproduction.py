"""Whether a version can be made again: what re-runs showed, the band that they span, and where the recorded value is.

The band of a figure is a prediction interval: where one more run would lie with 99 % probability if the figures of
runs are normal, mean ± k·sd with k = t(0.995, n − 1)·√(1 + 1/n) (Hahn & Meeker, Statistical Intervals, 4.8). Re-runs
that are equal bit for bit have no spread, and neither has a single one: then the band is the value itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from tasks.contracts import Made, Scorecard, Value
from tasks.evaluation_recipes import EvaluationChoice
from tasks.reader_contracts import MadeReader, ReaderScorecard
from tasks.reader_recipes import QuestionsChoice, ReaderChoice, ReaderGate, ReaderRecipe
from tasks.recipes import DataChoice, Gate, ModelChoice, Recipe
from tasks.retrain_plan import Retraining, Training
from tasks.retraining import News

CONFIDENCE = 0.99
# How the bytes of re-runs are beside the recorded ones. Packed: the compressed folder's are the same, and what was
# exported of it, which is what serves, was not recorded.
Sameness = Literal["same", "other", "packed"]


class RecordedRun(Value):
    """A version as its own run left it: what every kind has."""

    name: str
    version: str
    run_id: str
    url: str
    text_digest: str
    base_digest: str = Field(description="SHA-256 of the model that its run began with")
    surroundings: str = Field(description="As in surroundings.json of its run")
    exported_digest: str | None = Field(
        default=None, description="Of the exported folder, which a CPU serves; empty: it has none, none: not recorded"
    )

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"


class TrainedFirst(Value):
    """How the uncompressed model was trained before it was made smaller."""

    retraining: Retraining
    training: Training
    base_name: str
    parent: str = Field(description="Name and number of the champion then; empty for the first version")
    news: News

    @property
    def goes_on(self) -> bool:
        """Whether what the champion was made from was trained further."""
        return self.retraining.start == "champion" and bool(self.parent)


class Recorded(RecordedRun):
    """A compressed language model."""

    model: ModelChoice
    data: DataChoice
    recipe: Recipe
    gate: Gate
    evaluation: EvaluationChoice = EvaluationChoice()
    scorecard: Scorecard
    held_out_digest: str = Field(default="", description="Of a held-out text of its own; empty: none, or not recorded")
    labels_digest: str = Field(default="", description="Of the labels of what it was measured on; empty: none")
    trained: TrainedFirst | None = None


class RecordedReader(RecordedRun):
    """A distilled reader."""

    model: ReaderChoice
    data: QuestionsChoice
    recipe: ReaderRecipe
    gate: ReaderGate
    scorecard: ReaderScorecard


class Repeat(Value):
    """One re-run: what it made, and its figures."""

    run_id: str
    url: str
    digest: str
    exported_digest: str
    dataset_digest: str
    baseline_digest: str = Field(default="", description="Of what it was compared with: a trained model may differ too")
    figures: dict[str, float]
    earlier: bool = Field(default=False, description="Made by an earlier reproduction, in the same surroundings")


class Band(Value):
    """One figure: recorded, and where re-runs are. ``k`` is 0 where the band has no width."""

    figure: str
    recorded: float
    mean: float
    low: float
    high: float
    k: float

    @property
    def inside(self) -> bool:
        return self.low <= self.recorded <= self.high


class Reproduction(Value):
    """A version, made once more or several times, beside what was recorded of it."""

    name: str
    version: str
    url: str
    digest: str
    exported_digest: str | None = Field(default=None, description="Of what is served; empty: none, none: not recorded")
    trained_digest: str = Field(default="", description="Of the model that its run trained; empty: it trained none")
    repeats: tuple[Repeat, ...]
    bands: tuple[Band, ...]
    changed: tuple[str, ...] = Field(description="What can move a figure and is not as it was, one line each")

    @property
    def alike(self) -> Sameness:
        """Of all re-runs: other where one made other bytes."""
        found = {sameness(repeat, self.digest, self.exported_digest) for repeat in self.repeats}
        return "other" if "other" in found else "packed" if "packed" in found else "same"

    @property
    def identical(self) -> bool:
        """Whether every re-run made the same bytes, of the compressed folder and of the one that is served."""
        return self.alike == "same"

    @property
    def inside(self) -> bool:
        return bool(self.bands) and all(band.inside for band in self.bands)

    @property
    def verdict(self) -> str:
        count = len(self.repeats)
        runs = "1 re-run" if count == 1 else f"{count} re-runs"
        if self.identical and self.inside:
            return f"reproduced bit for bit by {runs}"
        return f"{'inside' if self.inside else 'OUTSIDE'} the bands of {runs}, {_BYTES[self.alike]}"


_BYTES: dict[Sameness, str] = {
    "same": "with the same bytes",
    "other": "not bit for bit",
    "packed": "the compressed folder bit for bit; what was exported of it was not recorded",
}


def sameness(repeat: Repeat, digest: str, exported_digest: str | None) -> Sameness:
    """A re-run's folders beside those with these digests."""
    if repeat.digest != digest or exported_digest not in (None, repeat.exported_digest):
        return "other"
    return "packed" if exported_digest is None else "same"


def figures_of(scorecard: Scorecard | ReaderScorecard) -> dict[str, float]:
    """What a re-run is compared on. Times are not: they are the machine's."""
    if isinstance(scorecard, ReaderScorecard):
        return _reader_figures(scorecard)
    now, packed = scorecard.candidate, scorecard.packed
    found = {"perplexity": now.perplexity, "agreement": now.agreement, "KL": now.kl, "bytes": float(now.bytes)}
    found["original: perplexity"] = scorecard.baseline.perplexity  # of a version that was trained first: the trained
    if packed is not None:
        found |= {
            "compressed folder: perplexity": packed.perplexity,
            "compressed folder: agreement": packed.agreement,
            "compressed folder: bytes": float(packed.bytes),
        }
    return found


def _reader_figures(scorecard: ReaderScorecard) -> dict[str, float]:
    now, before, teacher = scorecard.candidate, scorecard.before, scorecard.baseline
    return {
        "F1": now.f1,
        "exact match": now.exact_match,
        "bytes": float(now.bytes),
        "untaught: F1": before.f1,
        "teacher: F1": teacher.f1,
        "teacher: exact match": teacher.exact_match,
    }


def repeat_of(made: Made | MadeReader, run_id: str, url: str) -> Repeat:
    scorecard = made.scorecard
    exported = scorecard.exported_model if isinstance(scorecard, Scorecard) else None
    return Repeat(
        run_id=run_id,
        url=url,
        digest=scorecard.candidate_model.digest,
        exported_digest=exported.digest if exported else "",
        dataset_digest=made.data.digest,
        baseline_digest=scorecard.baseline_model.digest,
        figures=figures_of(scorecard),
    )


def bands(recorded: Mapping[str, float], repeats: Sequence[Repeat]) -> tuple[Band, ...]:
    """The band of each recorded figure that every re-run has too."""
    return tuple(
        _band(name, value, [repeat.figures[name] for repeat in repeats])
        for name, value in recorded.items()
        if repeats and all(name in repeat.figures for repeat in repeats)
    )


def _band(name: str, recorded: float, values: Sequence[float]) -> Band:
    count = len(values)
    if min(values) == max(values):  # not by the mean: that of equal floats may differ from them in its last bit
        return Band(figure=name, recorded=recorded, mean=values[0], low=values[0], high=values[0], k=0.0)
    from scipy.stats import t

    mean, spread = statistics.fmean(values), statistics.stdev(values)
    k = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(1 + 1 / count)
    return Band(figure=name, recorded=recorded, mean=mean, low=mean - k * spread, high=mean + k * spread, k=k)
