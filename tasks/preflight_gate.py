"""Refuse a gate that nothing can pass, before any work starts."""

from __future__ import annotations

import numpy as np

from tasks.compression.paired import needed_items
from tasks.compression.paired_share import PairedShare
from tasks.errors import RefusedRecipe
from tasks.evaluation_recipes import EvaluationChoice
from tasks.recipes import Gate


def check_gate(gate: Gate, evaluation: EvaluationChoice) -> None:
    """Answers to a few prompts prove little even where none of them got worse: too little for some limits.

    Raises:
        RefusedRecipe: says how many prompts the limit takes.
    """
    limit, prompts = gate.max_degenerate_rise, evaluation.prompts
    if limit >= 1 or gate.confidence <= 0.5:
        return
    alike = PairedShare(np.zeros(max(prompts, 2)))
    bound = alike.upper(gate.confidence)
    if prompts >= 2 and bound is not None and bound <= limit:
        return
    needed = needed_items(0.0, 0.0, alike.items, limit, gate.confidence, bound)
    raise RefusedRecipe(
        "the gate asks more of the generated answers than their number can show, even if none gets worse",
        observed=f"gate.max_degenerate_rise {limit:g}, evaluation.prompts {prompts}",
        limit=f"at least {needed} prompts for this" if needed else "a limit above 0",
        remedy="raise evaluation.prompts (up to 256) or gate.max_degenerate_rise, or set the latter to 1",
    )
