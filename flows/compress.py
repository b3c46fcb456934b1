"""fetch → prune → quantize → distill → export → evaluate → register, in the order that the recipe says."""

from __future__ import annotations

from prefect import flow

from flows.stages import Line, run_stage
from flows.wanted import Wanted
from tasks.contracts import DatasetRef, Exported, Made, ModelRef, Outcome, Tracked
from tasks.convert import convert
from tasks.data_contracts import DataText
from tasks.engine_checks import engines_of
from tasks.engines import prepare_engine
from tasks.evaluation_recipes import EvaluationChoice
from tasks.export import export
from tasks.fetch import fetch, locate, read_data, require_apart
from tasks.gate import judge
from tasks.measure import measure, measure_champion
from tasks.preflight import check_fit, preflight
from tasks.preflight_gate import check_gate
from tasks.pricing import priced
from tasks.recipes import DataChoice, Gate, ModelChoice, ModelName, Recipe
from tasks.record import (
    record_card,
    record_data,
    record_verdict,
    record_version,
    recorded_run,
)
from tasks.register import register
from tasks.report import record_report
from tasks.require import require_passed, require_sound
from tasks.retraining import Before
from tasks.score_alone import with_start


@flow(name="compress", flow_run_name="compress-{model.short}-{recipe.name}")
def compress(
    model: ModelChoice = ModelChoice(),
    data: DataChoice = DataChoice(),
    recipe: Recipe = Recipe(),
    gate: Gate = Gate(),
    registered_name: ModelName = "slimline",
    evaluation: EvaluationChoice = EvaluationChoice(),
) -> Outcome:
    """Shrink one model, prove that it still answers like the original, and register it.

    Args:
        model: The model to compress.
        data: The text for calibration, training and held-out evaluation.
        recipe: Which stages run, in which order, and how strongly.
        gate: What the candidate must hold on the held-out items.
        registered_name: Name of the registered model in MLflow.
        evaluation: What else is measured on both models: generated answers, latency under load, tasks.
    """
    check_gate(gate, evaluation)
    preflight(model, data, recipe)
    with recorded_run(f"{model.short}-{recipe.name}", recipe) as tracked:
        made = shrink(tracked, model, data, Wanted(recipe, gate, evaluation, registered_name))
        return enter(tracked, made, recipe, registered_name)


def enter(tracked: Tracked, made: Made, recipe: Recipe, registered_name: str) -> Outcome:
    """What has passed the gate becomes a version; what has not ends the run. Either way there is a report."""
    if not made.scorecard.passed:
        record_report(tracked, recipe, made)
    require_passed(made.scorecard)
    registered = register(tracked, made.scorecard, recipe, made.data, registered_name)
    record_version(tracked, registered)
    record_report(tracked, recipe, made, registered)
    return Outcome(
        original=made.original,
        data=made.data,
        stages=made.stages,
        scorecard=made.scorecard,
        exported=made.exported,
        registered=registered,
        tracked=tracked,
    )


def shrink(tracked: Tracked, model: ModelChoice, data: DataChoice, wanted: Wanted) -> Made:
    """Every stage of the recipe and the judged scorecard, recorded in the run ``tracked``. Nothing is registered."""
    text = read_data(data)
    return shrink_with(tracked, locate(model), data, text, wanted)


def shrink_with(tracked: Tracked, original: ModelRef, data: DataChoice, text: DataText, wanted: Wanted) -> Made:
    """As ``shrink``, of a model and a text that are there."""
    check_fit(wanted.recipe, original)
    blocks = fetch(data, text, original)
    record_data(tracked, blocks)
    record_card(tracked, data, text, blocks)
    require_apart(data, blocks)
    return squeeze(tracked, original, blocks, wanted)


def squeeze(
    tracked: Tracked, original: ModelRef, blocks: DatasetRef, wanted: Wanted, before: Before | None = None
) -> Made:
    """As ``shrink``, of a model and a data set that are there. ``before``: where that model was just trained, what it
    was trained from.
    """
    recipe, gate, evaluation = wanted.recipe, wanted.gate, wanted.evaluation
    for engine in engines_of(recipe):
        prepare_engine(engine)

    line, candidate = Line(tracked), original
    for stage, following in zip(recipe.order, (*recipe.order[1:], None), strict=True):
        done = line.add(run_stage(stage, candidate, original, blocks, recipe, following))
        require_sound(done, recipe.max_fallback_share)
        candidate = done.model
    exported: Exported | None = None
    if recipe.cpu_export != "none":
        exported = line.add_export(export(candidate, recipe.cpu_export, return_state=True))
    if "quantize" in recipe.order and recipe.quantize.layout:
        candidate = line.add(convert(candidate, recipe.quantize.layout, return_state=True)).model

    scorecard = measure(candidate, exported.model if exported else None, original, blocks, evaluation)
    if before is not None:
        scorecard = with_start(scorecard, before.model, blocks, before.min_gain)
    champion = None
    if wanted.registered_name:
        champion = measure_champion(gate, wanted.registered_name, original, blocks, evaluation)
    scorecard = priced(judge(scorecard, gate, champion), line.stages, exported)
    record_verdict(tracked, scorecard)
    return Made(
        original=original, data=blocks, stages=line.stages, reused=line.reused, exported=exported, scorecard=scorecard
    )
