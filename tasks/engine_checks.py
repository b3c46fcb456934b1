"""Which engines a recipe needs, and what they cannot do: refused before anything is built."""

from __future__ import annotations

from tasks.adapters.engine_kinds import (
    ENGINES,
    OWN,
    check_engine_model,
    check_engine_place,
    check_engine_recipe,
)
from tasks.contracts import ModelRef
from tasks.errors import RefusedRecipe
from tasks.recipes import PruneRecipe, QuantizeRecipe, Recipe

BROUGHT = ("awq", "smoothquant", "fp8")  # methods that Slimline's own engine does not have
EIGHT_BITS = ("smoothquant", "fp8")


def engines_of(recipe: Recipe) -> list[str]:
    """The engines beside ours that a recipe needs, each once."""
    chosen = {"prune": recipe.prune.engine, "quantize": recipe.quantize.engine}
    return sorted({chosen[stage] for stage in recipe.order if stage in chosen} - {OWN})


def statistics_are_of_use(recipe: Recipe) -> bool:
    """Whether what our pruning gathered can be taken over by our quantization; no other engine gives or takes it."""
    return recipe.prune.engine == recipe.quantize.engine == OWN


def check_engines(recipe: Recipe) -> None:
    """Refuse what the chosen engines cannot do, before anything is built.

    Raises:
        RefusedRecipe: a method, bit width or group size that the engine lacks, a machine that it cannot be built on, or
            stages that do not go together.
    """
    for name in engines_of(recipe):
        check_engine_place(ENGINES[name])
    if "prune" in recipe.order:
        _check_prune(recipe.prune)
    if "quantize" in recipe.order:
        _check_quantize(recipe.quantize)
        _check_order(recipe)


def _check_prune(prune: PruneRecipe) -> None:
    if prune.engine == OWN:
        return
    check_engine_recipe(ENGINES[prune.engine], prune=prune.model_dump())
    if prune.allocation != "uniform":
        _refuse(
            "only Slimline's own engine gives each layer a share of its own",
            f"engine {prune.engine}, allocation {prune.allocation}",
            "allocation uniform",
            "set recipe.prune.allocation to uniform, or recipe.prune.engine to slimline",
        )


def _check_quantize(quantize: QuantizeRecipe) -> None:
    if quantize.engine == OWN:
        if quantize.method in BROUGHT:
            _refuse(
                f"Slimline's own engine does not have {quantize.method}",
                f"engine slimline, method {quantize.method}",
                "gptq, rtn",
                "set recipe.quantize.engine to llm-compressor",
            )
        return
    check_engine_recipe(ENGINES[quantize.engine], quantize=quantize.model_dump())
    if quantize.mean_bits:
        _refuse(
            "only Slimline's own engine gives each layer bits of its own",
            f"engine {quantize.engine}, mean_bits {quantize.mean_bits:g}",
            "mean_bits 0",
            "set recipe.quantize.mean_bits to 0, or recipe.quantize.engine to slimline",
        )


def _check_order(recipe: Recipe) -> None:
    """Stages that do not go together, where ``quantize`` is one."""
    prune, quantize, order = recipe.prune, recipe.quantize, recipe.order
    zeros = "prune" in order and prune.method != "structured"
    if zeros and quantize.engine != OWN and quantize.method not in ENGINES[quantize.engine].keeps_zeros:
        _refuse(
            f"{quantize.method} of {quantize.engine} spreads errors over pruned weights too: some are zero no longer",
            f"prune {prune.method}, then quantize {quantize.method} by {quantize.engine}",
            "engine slimline after pruning, or a method that only rounds: awq, fp8",
            "set recipe.quantize.engine to slimline, prune structures, or leave prune out of recipe.order",
        )
    if quantize.method in EIGHT_BITS and "distill" in order[order.index("quantize") :]:
        _refuse(
            f"distillation does not learn the scales of {quantize.method}",
            " → ".join(order),
            "distill before quantize",
            "put distill before quantize in recipe.order, or choose gptq",
        )


def check_engines_fit(recipe: Recipe, model: ModelRef) -> None:
    """Refuse an architecture that a chosen engine was not tried with.

    Raises:
        RefusedModel: names those that will do.
    """
    for name in engines_of(recipe):
        check_engine_model(ENGINES[name], model.architecture)


def _refuse(cause: str, observed: str, limit: str, remedy: str) -> None:
    raise RefusedRecipe(cause, observed=observed, limit=limit, remedy=remedy)
