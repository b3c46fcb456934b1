"""What training changed, weighed on the same held-out blocks as everything else, and held where that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tasks.compression.items import BASELINE, CANDIDATE, Item
from tasks.compression.paired import PairedMean
from tasks.contracts import GateCheck, Scorecard
from tasks.evidence_contracts import TextFigures, TrainingGain
from tasks.gate_checks import Held, decide
from tasks.gate_items import blocks_of, counts_of, items_of, require_same_blocks, shown, sums
from tasks.training_text import FALL

MORE = "more new text (data.training_blocks), more training.epochs, another learning rate; or lower retraining.min_gain"


def weigh(scorecard: Scorecard, champion: Scorecard | None, confidence: float) -> TrainingGain | None:
    """The model before training, the trained one, what is served of it, and the champion where the gate asks for it:
    each by its own held-out text figures and against the first. None where nothing was trained.

    Raises:
        SlimlineError: they were measured on other blocks.
    """
    training = scorecard.training
    if training is None:
        return None
    start, items, before = blocks_of(training.items), items_of(scorecard), items_of(champion)
    require_same_blocks("the model before training", items, start, "run it again: a part of the store was replaced")
    rows = [
        _row("start", training.start, start, BASELINE, start, confidence),
        _row("trained", scorecard.baseline_model.name, items, BASELINE, start, confidence),
        _row("served", scorecard.served_model.name, items, CANDIDATE, start, confidence),
    ]
    if champion is not None:
        rows.append(_row("champion", champion.champion, before, CANDIDATE, start, confidence))
    return training.model_copy(update={"confidence": confidence, "rows": tuple(rows)})


def hold_training(scorecard: Scorecard, training: TrainingGain | None) -> list[Held]:
    """The fall of the perplexity by training, where one is asked for: trained against the start model, before anything
    is compressed.
    """
    if training is None or not training.min_gain:
        return []
    return [_hold(_fall(items_of(scorecard), BASELINE, blocks_of(training.items)), training.min_gain)]


def judge_training(
    training: TrainingGain, trained: str, items: Sequence[Item], confidence: float
) -> tuple[TrainingGain, GateCheck]:
    """As ``weigh`` and ``hold_training``, before anything is compressed: ``items`` are the results of the model
    ``trained`` alone. On the same blocks the check comes out as it does later.
    """
    start = blocks_of(training.items)
    rows = (
        _row("start", training.start, start, BASELINE, start, confidence),
        _row("trained", trained, items, BASELINE, start, confidence),
    )
    (check,) = decide([_hold(_fall(items, BASELINE, start), training.min_gain)], confidence)
    return training.model_copy(update={"confidence": confidence, "rows": rows}), check


def _hold(fall: PairedMean, least: float) -> Held:
    return Held(
        FALL, 1 - shown(-fall.value), least, "at least", MORE, fall,
        lambda share: -math.log1p(-share), lambda nats: 1 - shown(-nats),
    )  # fmt: skip


def _fall(items: Sequence[Item], form: str, start: Sequence[Item]) -> PairedMean:
    """In nats a token, from the start model's."""
    return PairedMean(sums(start, BASELINE, "nll") - sums(items, form, "nll"), counts_of(start))


def _row(
    role: str, name: str, items: Sequence[Item], form: str, start: Sequence[Item], confidence: float
) -> TextFigures:
    counts = counts_of(start)
    fall = _fall(items, form, start)
    rise = PairedMean(sums(items, form, "right") - sums(start, BASELINE, "right"), counts)
    most, least = fall.upper(confidence), fall.lower(confidence)
    positions = float(np.sum(counts))
    return TextFigures.model_validate({
        "role": role,
        "name": name,
        "perplexity": shown(float(sums(items, form, "nll").sum()) / positions),
        "accuracy": float(sums(items, form, "right").sum()) / positions,
        "ratio": shown(-fall.value),
        "ratio_lower": None if most is None else shown(-most),
        "ratio_upper": None if least is None else shown(-least),
        "rise": rise.value,
        "rise_lower": rise.lower(confidence),
        "rise_upper": rise.upper(confidence),
    })  # fmt: skip
