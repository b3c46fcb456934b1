"""The main flow: make the model smaller, prove it, register it, and move traffic onto it."""

from __future__ import annotations

from prefect import flow

from flows.compress import compress
from flows.release import release
from tasks.contracts import Outcome
from tasks.evaluation_recipes import EvaluationChoice
from tasks.plans import ReleasePlan
from tasks.preflight import preflight
from tasks.recipes import DataChoice, Gate, ModelChoice, ModelName, Recipe


@flow(name="compress-and-release", flow_run_name="{model.short}-{recipe.name}-{plan.mode}")
def compress_and_release(
    model: ModelChoice = ModelChoice(),
    data: DataChoice = DataChoice(),
    recipe: Recipe = Recipe(),
    gate: Gate = Gate(),
    plan: ReleasePlan = ReleasePlan(),
    registered_name: ModelName = "slimline",
    evaluation: EvaluationChoice = EvaluationChoice(),
) -> Outcome:
    """Compress a model, prove that it still answers like the original, register it, and release it by canary.

    Args:
        model: The model to compress.
        data: The text for calibration, training and held-out evaluation.
        recipe: Which stages run, in which order, and how strongly.
        gate: What the candidate must hold on the held-out items; a failed gate stops before registering.
        plan: How live traffic moves to the new version; alarms bring it back.
        registered_name: Name of the registered model in MLflow.
        evaluation: What else is measured on both models: generated answers, latency under load, tasks.
    """
    preflight(model, data, recipe, plan)
    outcome = compress(model, data, recipe, gate, registered_name, evaluation)
    rollout = release(outcome.registered, outcome.original, outcome.data, plan)
    return outcome.model_copy(update={"rollout": rollout, "registered": rollout.registered})
