"""What the flows that make a model smaller hand on, from the form to the stages."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.evaluation_recipes import EvaluationChoice
from tasks.recipes import Gate, Recipe


@dataclass(frozen=True)
class Wanted:
    """What a form asks for beside a model and its text.

    Attributes:
        recipe: the stages.
        gate: what the candidate must hold.
        evaluation: what else is measured.
        registered_name: whose champion the gate may ask for; empty where it is held against the original alone.
    """

    recipe: Recipe
    gate: Gate
    evaluation: EvaluationChoice
    registered_name: str
