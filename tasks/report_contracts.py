"""What a report is drawn from: one JSON file of the MLflow run, to which each release adds itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.contracts import (
    Compressed,
    DatasetRef,
    Exported,
    ModelRef,
    RegisteredModel,
    Rollout,
    Scorecard,
    Tracked,
    Value,
)
from tasks.reader_contracts import QuestionsRef, ReaderScorecard
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import Recipe


class ReleaseNote(Value):
    """One release of the version."""

    rollout: Rollout
    at: str = Field(description="When it ended, UTC")
    prefect_url: str = Field(default="", description="Page of its flow run")


class Report(Value):
    """One run that has made a model smaller, and what became of its version."""

    title: str = Field(description="The run's name")
    at: str = Field(description="When it was made, UTC")
    recipe: Recipe | ReaderRecipe
    original: ModelRef
    data: DatasetRef | QuestionsRef
    splits: dict[str, str] = Field(description="SHA-256 of each part of the data set, by what it is for")
    text_digest: str
    card: dict[str, Any] = Field(description="The data card")
    stages: tuple[Compressed, ...]
    cached: dict[str, str] = Field(description="Stage to true or false: was it cached? Older reports: unknown too")
    exported: Exported | None
    scorecard: Scorecard | ReaderScorecard
    registered: RegisteredModel | None = Field(description="None where the gate stopped the run")
    deleted: bool = Field(default=False, description="Whether MLflow had the version no more when this was drawn")
    tracked: Tracked
    prefect_url: str
    surroundings: dict[str, Any] = Field(description="Code, packages, processor")
    releases: tuple[ReleaseNote, ...] = ()

    @property
    def served(self) -> ReleaseNote | None:
        """The newest release."""
        return self.releases[-1] if self.releases else None
