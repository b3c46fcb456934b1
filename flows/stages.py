"""The stages of a recipe, as the flows that run recipes call and record them."""

from __future__ import annotations

from typing import Any

from prefect import State

from tasks.contracts import Compressed, DatasetRef, Exported, ModelRef, Tracked
from tasks.distill import distill
from tasks.engine_checks import statistics_are_of_use
from tasks.prune import prune
from tasks.quantize import quantize
from tasks.recipes import CompressStage, Recipe
from tasks.record import record_export, record_stage


class Line:
    """What the stages of one run made, in their order, each recorded as it is done.

    A stage is handed over as its task's state: ``result()`` raises what went wrong, and the state is named Cached where
    the result was there already.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self.stages: tuple[Compressed, ...] = ()
        self.reused: tuple[str, ...] = ()

    def add(self, state: State[Compressed]) -> Compressed:
        done, cached = state.result(), was_cached(state)
        record_stage(self._tracked, done, cached)
        self._note(done.stage, cached)
        self.stages = (*self.stages, done)
        return done

    def add_export(self, state: State[Exported]) -> Exported:
        done, cached = state.result(), was_cached(state)
        record_export(self._tracked, done, cached)
        self._note("export", cached)
        return done

    def _note(self, stage: str, cached: bool) -> None:
        self.reused += (stage,) if cached else ()


def was_cached(state: State[Any]) -> bool:
    """Whether the task was answered from the cache."""
    return state.name == "Cached"


def run_stage(
    stage: CompressStage,
    candidate: ModelRef,
    original: ModelRef,
    data: DatasetRef,
    recipe: Recipe,
    following: CompressStage | None,
) -> State[Compressed]:
    """Run it. ``following``: the stage after it; statistics that it can use are kept."""
    if stage == "prune":
        keep = following == "quantize" and statistics_are_of_use(recipe)
        return prune(candidate, data, recipe.prune, recipe.seed, keep, return_state=True)
    if stage == "quantize":
        return quantize(candidate, data, recipe.quantize, return_state=True)
    return distill(candidate, original, data, recipe.distill, recipe.seed, return_state=True)
