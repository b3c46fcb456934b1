"""New text → fine-tune → compress → held against the champion → register → release; or nothing new, and it ends."""

from __future__ import annotations

from prefect import State, flow

from flows.compress import enter, squeeze
from flows.release import release
from flows.stages import Line
from flows.wanted import Wanted
from tasks.contracts import Champion, Made, ModelRef, Tracked
from tasks.data_contracts import DataText
from tasks.evaluation_recipes import EvaluationChoice
from tasks.fetch import locate, read_data, require_apart
from tasks.find_champion import find_champion
from tasks.news import fetch_new, look_for_new, skip
from tasks.origin import record_origin, record_parent, uncompressed
from tasks.plans import ReleasePlan
from tasks.preflight import check_fit, preflight
from tasks.preflight_gate import check_gate
from tasks.recipes import DataChoice, Gate, ModelChoice, ModelName, Recipe
from tasks.record import record_card, record_data, recorded_run
from tasks.retrain_plan import Retraining, Training
from tasks.retraining import Before, News, Retrained, Skipped
from tasks.train import check_training, train
from tasks.training_gain import require_gain


@flow(name="retrain-and-release", flow_run_name="retrain-{registered_name}-{training.method}-{plan.mode}")
def retrain_and_release(
    model: ModelChoice = ModelChoice(),
    data: DataChoice = DataChoice(),
    retraining: Retraining = Retraining(),
    training: Training = Training(),
    recipe: Recipe = Recipe(),
    gate: Gate = Gate(baseline="both"),
    plan: ReleasePlan = ReleasePlan(),
    registered_name: ModelName = "slimline",
    evaluation: EvaluationChoice = EvaluationChoice(),
    degraded_endpoint: str = "",
) -> Retrained | State[Skipped]:
    """Train a model on text that has come since the champion was made, compress it, prove it, and release it.

    Where too little of the text is new the run ends at once, as Skipped, and says how much it found.

    Args:
        model: The uncompressed model that is trained.
        data: The text. It is looked through for documents that no version has seen.
        retraining: How much must be new, and what the training starts from.
        training: How the uncompressed model learns.
        recipe: How the trained model is made smaller.
        gate: What the candidate must hold on the held-out items, against the trained model and against the champion.
        plan: How live traffic moves to the new version.
        registered_name: Name of the registered model in MLflow: its champion is what the new version follows.
        evaluation: What else is measured on both models: generated answers, latency under load, tasks.
        degraded_endpoint: Name of an endpoint that was observed degraded; where the plan releases to another one, the
            run is Skipped. The automation fills this in.
    """
    if degraded_endpoint not in ("", plan.endpoint):
        return skip(registered_name, f"{degraded_endpoint} is degraded, and this one releases to {plan.endpoint}")
    check_gate(gate, evaluation)
    preflight(model, data, recipe, plan)
    text = read_data(data)
    champion = find_champion(registered_name)
    news = look_for_new(data, text, registered_name, champion.version if champion else "", retraining.min_new_documents)
    if not news.enough:
        return skip(registered_name, news.sentence, news)
    wanted = Wanted(recipe, gate, evaluation, registered_name)
    done = retrain(model, data, text, news, champion, retraining, training, wanted)
    rollout = release(done.outcome.registered, done.outcome.original, done.outcome.data, plan)
    outcome = done.outcome.model_copy(update={"rollout": rollout, "registered": rollout.registered})
    return done.model_copy(update={"outcome": outcome})


def retrain(
    model: ModelChoice,
    data: DataChoice,
    text: DataText,
    news: News,
    champion: Champion | None,
    retraining: Retraining,
    training: Training,
    wanted: Wanted,
) -> Retrained:
    """From the new text to a registered version, recorded in an MLflow run of its own."""
    recipe, registered_name = wanted.recipe, wanted.registered_name
    with recorded_run(f"{model.short}-retrained-{recipe.name}", recipe) as tracked:
        base = uncompressed(champion) if champion and retraining.start == "champion" else locate(model)
        check_training(base, training)
        check_fit(recipe, base)
        record_origin(tracked, base, champion, news)
        made = train_and_squeeze(tracked, base, data, text, news, retraining, training, wanted)
        outcome = enter(tracked, made, recipe, registered_name)
        trained = made.stages[0]
        record_parent(outcome.registered, champion, trained, news)
    parent = champion.label if champion else ""
    return Retrained(news=news, parent=parent, trained=trained, outcome=outcome)


def train_and_squeeze(
    tracked: Tracked,
    base: ModelRef,
    data: DataChoice,
    text: DataText,
    news: News,
    retraining: Retraining,
    training: Training,
    wanted: Wanted,
) -> Made:
    """Blocks of the text, the model trained on them, and what it is compressed to; the first stage is the training."""
    blocks = fetch_new(data, text, base, news, retraining.held_out_share)
    record_data(tracked, blocks)
    record_card(tracked, data, text, blocks)
    require_apart(data, blocks)

    line = Line(tracked)
    trained = line.add(train(base, blocks, training, return_state=True))
    before = Before(model=base, min_gain=retraining.min_gain)
    if wanted.registered_name:  # a version that is made again runs to its end, whatever it gained
        require_gain(tracked, before, trained.model, blocks, wanted.gate.confidence, wanted.recipe.exports)
    made = squeeze(tracked, trained.model, blocks, wanted, before)
    return made.model_copy(update={"stages": line.stages + made.stages, "reused": line.reused + made.reused})
