"""Many recipes side by side under budgets: try, look, give up early what is hopeless, choose one with its reasons."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.compress import compress
from flows.stages import run_stage, was_cached
from tasks.adapters.optimiser import Optimiser, first_point
from tasks.choosing import (
    as_big,
    bytes_ratio,
    check_space,
    choose,
    excess,
    front_of,
    hopeless,
    objectives,
    overruns,
    recipe_at,
)
from tasks.contracts import DatasetRef, ModelRef, Tracked
from tasks.convert import convert
from tasks.engine_checks import engines_of
from tasks.engines import prepare_engine
from tasks.errors import SlimlineError, is_out_of_memory
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.fetch import fetch, locate, read_data, require_apart
from tasks.preflight import check_fit, check_recipe, preflight
from tasks.pricing import priced, require_priced
from tasks.recipes import DataChoice, Gate, ModelChoice, ModelName, Recipe
from tasks.record import record_card, record_data, recorded_run
from tasks.require import require_sound
from tasks.screen import screen
from tasks.search import record_comparison, record_tried
from tasks.search_contracts import Comparison, Stage, Tried
from tasks.search_plan import Budgets, SearchPlan, SearchSpace


@flow(name="compare-recipes", flow_run_name="compare-{model.short}-{search.recipes}recipes")
def compare_recipes(
    model: ModelChoice = ModelChoice(),
    data: DataChoice = DataChoice(),
    base: Recipe = Recipe(name="base", cpu_export="none"),
    space: SearchSpace = SearchSpace(),
    budgets: Budgets = Budgets(),
    search: SearchPlan = SearchPlan(),
    registered_name: ModelName = "slimline",
    register_chosen: bool = False,
) -> Comparison:
    """Try many recipes on one model, and choose the one that keeps within the budgets.

    Args:
        model: The model to compress.
        data: The text for calibration, training and held-out evaluation.
        base: What all recipes have in common.
        space: What differs from recipe to recipe.
        budgets: What the chosen recipe must keep within.
        search: How many recipes, what is preferred among those within the budgets, and when to give one up.
        registered_name: Name of the registered model in MLflow.
        register_chosen: Run the chosen recipe through `compress` too, with the budgets as its gate, so that it is
            registered. Its stages are in the cache by then.
    """
    check_space(base, space)
    preflight(model, data, recipe_at(first_point(space), base))
    if budgets.max_usd_per_million:
        require_priced()
    with recorded_run(f"{model.short}-search", base) as tracked:
        text = read_data(data)
        original = locate(model)
        blocks = fetch(data, text, original)
        record_data(tracked, blocks)
        record_card(tracked, data, text, blocks)
        require_apart(data, blocks)

        tried, spared = try_recipes(tracked, base, space, original, blocks, budgets, search)
        chosen, reason = choose(tried, search.prefer)
        comparison = Comparison(
            original=original, data=blocks, tried=tuple(tried), front=front_of(tried), chosen=chosen, reason=reason,
            tracked=tracked, spared=spared,
        )  # fmt: skip
        record_comparison(comparison, budgets)
    if register_chosen and chosen is not None:
        compress(model, data, comparison.of(chosen).recipe, gate_of(budgets), registered_name)
    return comparison


def try_recipes(
    tracked: Tracked,
    base: Recipe,
    space: SearchSpace,
    original: ModelRef,
    data: DatasetRef,
    budgets: Budgets,
    search: SearchPlan,
) -> tuple[list[Tried], int]:
    """Each recipe that the optimiser asks for, recorded as a child run; and how many were not tried, for a folder as
    big was already over the budget.
    """
    speed = bool(budgets.max_token_ms or budgets.max_usd_per_million) or search.prefer == "speed"
    optimiser, tried, spared = Optimiser(space, 3 if speed else 2, search.seed), list[Tried](), 0
    while len(tried) < search.recipes and (asked := optimiser.ask()) is not None:
        number, point = asked
        if as_big(point, tried, budgets):
            optimiser.tell(number, None)
            spared += 1
            continue
        tried.append(try_recipe(number, recipe_at(point, base), original, data, budgets, search))
        optimiser.tell(number, objectives(tried[-1], speed), excess(tried[-1], budgets))
        record_tried(tracked, tried[-1])
    return tried, spared


def try_recipe(
    number: int, recipe: Recipe, original: ModelRef, data: DatasetRef, budgets: Budgets, search: SearchPlan
) -> Tried:
    """Run a recipe's stages and measure it; stop as soon as what is half made is hopeless. Its failure is its own: what
    the model or an engine cannot do, a stage that is not sound, or too little memory for it.
    """
    stages: list[Stage] = []
    try:
        check_recipe(recipe)
        check_fit(recipe, original)
        for engine in engines_of(recipe):
            prepare_engine(engine)
        found = run_recipe(recipe, original, data, budgets, search, stages)
    except (SlimlineError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, SlimlineError) or is_out_of_memory(error)):
            raise
        found = {"outcome": "failed", "reason": str(error) or type(error).__name__}
    return Tried.model_validate({"number": number, "recipe": recipe, "stages": tuple(stages), **found})


def run_recipe(
    recipe: Recipe, original: ModelRef, data: DatasetRef, budgets: Budgets, search: SearchPlan, stages: list[Stage]
) -> dict[str, Any]:
    """How far a recipe came, as fields of ``Tried``. Stages that ended are added to ``stages``."""
    candidate = original
    for index, stage in enumerate(recipe.order):
        rest = recipe.order[index + 1 :]
        state = run_stage(stage, candidate, original, data, recipe, rest[0] if rest else None)
        done = state.result()
        stages.append(Stage(name=stage, reused=was_cached(state), seconds=done.seconds))
        require_sound(done, recipe.max_fallback_share)
        candidate = done.model
        ratio = screen(candidate, original, data, search.screen_blocks).perplexity_ratio
        if why := hopeless(candidate, original, ratio, rest, budgets, search.hopeless):
            return {"outcome": "stopped", "reason": why, **_shape(candidate, original, ratio)}

    exported = export(candidate, recipe.cpu_export).model if recipe.cpu_export != "none" else None
    if recipe.quantize.layout:  # as in `compress`: what is registered then has these bytes
        candidate = convert(candidate, recipe.quantize.layout).model
    measured = evaluate(candidate, exported, original, data, return_state=True)
    scorecard = priced(measured.result())
    stages.append(Stage(name="evaluate", reused=was_cached(measured)))
    ratio = scorecard.candidate.perplexity / scorecard.baseline.perplexity
    return {
        "outcome": "measured",
        "scorecard": scorecard,
        "over": overruns(scorecard, budgets),
        **_shape(scorecard.served_model, original, ratio),
    }


def _shape(model: ModelRef, original: ModelRef, ratio: float) -> dict[str, Any]:
    return {"model": model, "bytes_ratio": bytes_ratio(model, original), "perplexity_ratio": ratio}


def gate_of(budgets: Budgets) -> Gate:
    """The budgets as a gate."""
    return Gate(
        max_perplexity_ratio=budgets.max_perplexity_ratio,
        min_agreement=budgets.min_agreement,
        max_bytes_ratio=budgets.max_bytes_ratio,
    )
