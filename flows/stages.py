"""One stage of a recipe, as the flows that run recipes call it."""

from __future__ import annotations

from prefect import State

from tasks.contracts import Compressed, DatasetRef, ModelRef
from tasks.distill import distill
from tasks.engine_checks import statistics_are_of_use
from tasks.prune import prune
from tasks.quantize import quantize
from tasks.recipes import CompressStage, Recipe


def run_stage(
    stage: CompressStage,
    candidate: ModelRef,
    original: ModelRef,
    data: DatasetRef,
    recipe: Recipe,
    following: CompressStage | None,
) -> State[Compressed]:
    """Run it. The state is named Cached where the result was there already; ``result()`` raises what went wrong.

    ``following``: the stage after it. Statistics that it can use are kept.
    """
    if stage == "prune":
        keep = following == "quantize" and statistics_are_of_use(recipe)
        return prune(candidate, data, recipe.prune, recipe.seed, keep, return_state=True)
    if stage == "quantize":
        return quantize(candidate, data, recipe.quantize, return_state=True)
    return distill(candidate, original, data, recipe.distill, recipe.seed, return_state=True)
