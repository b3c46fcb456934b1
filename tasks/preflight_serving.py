"""Whether what a recipe is going to make can be served as the release plan says: before it is made."""

from __future__ import annotations

from typing import Any

from tasks.adapters.obstacles import Obstacle, require_none
from tasks.adapters.serveability import obstacles
from tasks.hosted import ModelFacts
from tasks.plans import ReleasePlan
from tasks.recipes import Recipe


def check_target(recipe: Recipe, release: ReleasePlan) -> tuple[Obstacle, ...]:
    """The warnings. Memory is judged when the folder is there.

    Raises:
        RefusedRequest: the plan's container does not read what the recipe writes, or the instance type or the release
            mode cannot do it.
    """
    return require_none(obstacles(facts_of(recipe), release))


def facts_of(recipe: Recipe) -> ModelFacts:
    """What is known of the compressed folder before there is one: its format, and no sizes."""
    made: dict[str, Any] = {"format": "dense"}
    if "quantize" in recipe.order:
        made = _quantized(recipe)
    prune = recipe.prune
    if "prune" in recipe.order and prune.method != "structured" and prune.pattern == "2:4":
        made["pattern"] = "2:4"
    return ModelFacts(**made)


def _quantized(recipe: Recipe) -> dict[str, Any]:
    chosen = recipe.quantize
    if not chosen.integers:
        return {"format": "dense", "dtype": chosen.method}
    if chosen.method in ("w8a8", "smoothquant", "fp8"):
        kind = "fp8" if chosen.method == "fp8" else "int8"
        return {"format": "compressed-tensors", "bits": (8.0,), "activations": kind}
    bits: tuple[float, ...] = (float(chosen.bits),)
    if chosen.mean_bits:  # which layer gets which, the errors decide; below 4 in the mean some have 3 or 2
        bits = (2.0, 3.0) if chosen.mean_bits < 4 else ()
    return {
        "format": "compressed-tensors" if chosen.format == "compressed-tensors" else "gptq",
        "bits": bits,
        "group_sizes": (chosen.columns_a_scale or -1,),
        "symmetric": chosen.symmetric,
    }
