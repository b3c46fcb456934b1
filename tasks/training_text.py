"""What training changed, and which figures the champion was compared by, in sentences and numbers wherever shown."""

from __future__ import annotations

from tasks.contracts import Scorecard
from tasks.evidence_contracts import TextFigures, TrainingGain

FALL = "perplexity fall by training"  # the check's name, where one is asked for


def sentences(scorecard: Scorecard) -> list[str]:
    """Those of the two that there is something to say for, each after an empty line."""
    said = (training_sentence(scorecard.training), champion_sentence(scorecard))
    return [line for sentence in said if sentence for line in ("", sentence)]


def training_sentence(training: TrainingGain | None) -> str:
    """Whether the trained model is better on held-out text than the one that it was made of; empty where nothing was
    trained, or nothing is weighed yet.
    """
    trained = None if training is None else training.row("trained")
    start = None if training is None else training.row("start")
    if training is None or trained is None or start is None:
        return ""
    figures = (
        f"the held-out perplexity is {trained.perplexity:.2f} where it was {start.perplexity:.2f} before, and the true "
        f"next token is found in {trained.accuracy:.1%} of the positions where it was in {start.accuracy:.1%}"
    )
    return f"{_changed(trained, training.confidence)}: {figures}."


def _changed(trained: TextFigures, confidence: float) -> str:
    lower, upper, sure = trained.ratio_lower, trained.ratio_upper, f"{confidence:.0%} sure"
    if lower is None or upper is None:
        return "Whether training made the model better is not known, for one block says nothing of their spread"
    if upper < 1:
        return f"Training lowered the perplexity by {1 - trained.ratio:.2%} ({sure}: by at least {1 - upper:.2%})"
    if lower > 1:
        higher = f"{trained.ratio - 1:.2%} higher ({sure}: at least {lower - 1:.2%})"
        return f"Training made the model worse, its perplexity {higher}"
    return (
        f"No better than before: the perplexity after training is {trained.ratio:.3f} times the one before, and its "
        f"interval, {lower:.3f} to {upper:.3f}, has 1 in it"
    )


def training_metrics(training: TrainingGain | None) -> dict[str, float]:
    """As numbers, by the names that MLflow shows."""
    found: dict[str, float] = {}
    for each in () if training is None else training.rows:
        found |= {f"{each.role}_text_perplexity": each.perplexity, f"{each.role}_text_accuracy": each.accuracy}
        if each.role == "trained":
            changes = {
                "training_perplexity_fall": 1 - each.ratio,
                "training_perplexity_fall_lower": None if each.ratio_upper is None else 1 - each.ratio_upper,
                "training_perplexity_fall_upper": None if each.ratio_lower is None else 1 - each.ratio_lower,
                "training_accuracy_rise": each.rise,
                "training_accuracy_rise_lower": each.rise_lower,
                "training_accuracy_rise_upper": each.rise_upper,
            }
            found |= {name: value for name, value in changes.items() if value is not None}
    return found


def champion_sentence(scorecard: Scorecard) -> str:
    """Which version it was also held against, and by which figures; empty where by none."""
    if not scorecard.champion:
        return ""
    said, ours = f"Held against the champion too: {scorecard.champion}.", scorecard.baseline_model.digest
    if scorecard.champion_original in ("", ours):
        return said
    return (
        f"{said} It was made from another original ({scorecard.champion_original[:12]}, this one from {ours[:12]}). "
        "Agreement, KL and flips are with this one's original, so they say nothing about the champion: the two are "
        "compared by the held-out text alone."
    )
