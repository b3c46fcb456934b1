"""What a search over recipes hands on: one value a recipe, and the comparison."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import DatasetRef, ModelRef, Place, Quality, Scorecard, Tracked, Value
from tasks.recipes import Recipe


class Screened(Value):
    """A half-made model and the original, on a few training blocks."""

    candidate: Quality
    baseline: Quality

    @property
    def perplexity_ratio(self) -> float:
        return self.candidate.perplexity / self.baseline.perplexity


class Stage(Value):
    """One stage of a tried recipe."""

    name: str
    reused: bool = Field(description="Whether its result came from the cache")
    seconds: Annotated[float, Place] = Field(default=0.0, description="Of computing it, whenever that was")


class Tried(Value):
    """One recipe, and how far it came.

    ``outcome``: measured on the held-out items; stopped, because what was half made was hopeless; failed, as a stage
    does that is not sound.
    """

    number: int
    recipe: Recipe
    stages: tuple[Stage, ...]
    outcome: Literal["measured", "stopped", "failed"]
    reason: str = Field(default="", description="Why it was stopped or failed")
    model: ModelRef | None = Field(default=None, description="The last model that was made")
    scorecard: Scorecard | None = Field(default=None, description="Of a measured one")
    bytes_ratio: float | None = Field(default=None, description="Folder ÷ original in float32")
    perplexity_ratio: float | None = Field(
        default=None, description="Candidate ÷ original; of a stopped one on training blocks"
    )
    over: tuple[str, ...] = Field(default=(), description="The budgets that a measured one is over, each in words")

    @property
    def agreement(self) -> float | None:
        return self.scorecard.candidate.agreement if self.scorecard else None

    @property
    def token_ms(self) -> float | None:
        return self.scorecard.candidate.per_token_ms if self.scorecard else None

    @property
    def usd_per_million(self) -> float | None:
        return self.scorecard.usd_per_million if self.scorecard else None

    @property
    def fits(self) -> bool:
        """Whether it keeps within every budget."""
        return self.outcome == "measured" and not self.over


class Comparison(Value):
    """What a search has found. ``front``: numbers of the measured recipes than which none is smaller and better."""

    original: ModelRef
    data: DatasetRef
    tried: tuple[Tried, ...]
    front: tuple[int, ...]
    chosen: int | None = Field(description="Number of the chosen recipe; none where no recipe keeps within the budgets")
    reason: str
    tracked: Tracked
    spared: int = Field(
        default=0, description="Recipes that were not tried, for a folder as big as theirs was over the budget"
    )

    @property
    def computed(self) -> int:
        return sum(not stage.reused for each in self.tried for stage in each.stages)

    @property
    def reused(self) -> int:
        return sum(stage.reused for each in self.tried for stage in each.stages)

    def of(self, number: int) -> Tried:
        return next(each for each in self.tried if each.number == number)
