"""Which recipe to try next: Optuna's multi-objective tree-structured Parzen estimator over a discrete space.

Ozaki et al. 2020, "Multiobjective Tree-Structured Parzen Estimator", GECCO (https://doi.org/10.1145/3377930.3389817);
ask-and-tell: https://optuna.readthedocs.io/en/stable/tutorial/20_recipes/009_ask_and_tell.html. The study lives in
memory: the same seed and the same answers ask for the same recipes, and answers come from the stages' cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from tasks.search_plan import SearchSpace

Point = Mapping[str, str | int | float]
_FIRST = 8  # recipes drawn at random before the estimator has something to go by


class Optimiser:
    """Minimises several objectives at once over a ``SearchSpace``."""

    def __init__(self, space: SearchSpace, objectives: int, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_FIRST, multivariate=True, group=True)
        self._study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
        self._told: dict[tuple[tuple[str, str | int | float], ...], tuple[list[float] | None, float]] = {}
        self._asked: dict[int, Trial] = {}

    @property
    def size(self) -> int:
        """How many different points the space has."""
        return sum(1 for _ in points(self._space))

    def ask(self, patience: int = 1000) -> tuple[int, Point] | None:
        """A point that was not tried yet, with its number; none when the space is used up, or nothing new is found in
        ``patience`` draws.
        """
        for _ in range(patience):
            if len(self._told) >= self.size:
                return None
            trial = self._study.ask()
            point = self._point(trial)
            key = tuple(sorted(point.items()))
            if key not in self._told:
                self._told[key] = None, 0.0
                self._asked[trial.number] = trial
                return trial.number, point
            self._tell(trial, *self._told[key])  # drawn again: the same answer
        return None

    def tell(self, number: int, values: list[float] | None, excess: float = 0.0) -> None:
        """What the point came to, one value an objective; none where it came to nothing. ``excess``: how far it is over
        the budgets, 0 for one that keeps within all: of the others the estimator looks for no neighbours.
        """
        trial = self._asked.pop(number)
        self._told[tuple(sorted(trial.params.items()))] = values, excess
        self._tell(trial, values, excess)

    def _tell(self, trial: Trial, values: list[float] | None, excess: float) -> None:
        trial.set_constraint("budgets", excess)
        self._study.tell(trial, values, state=TrialState.FAIL if values is None else None)

    def _point(self, trial: Trial) -> Point:
        space = self._space
        order: str = trial.suggest_categorical("order", _distinct(space.orders))
        if "prune" in order:
            trial.suggest_categorical("prune", _distinct(space.prune_methods))
            trial.suggest_categorical("sparsity", _distinct(space.sparsities))
        trial.suggest_categorical("quantize", _distinct(space.quantize_methods))
        trial.suggest_categorical("bits", _distinct(space.bits))
        trial.suggest_categorical("group_size", _distinct(space.group_sizes))
        return dict(trial.params)


def points(space: SearchSpace) -> Iterator[Point]:
    """Every different point of the space."""
    rounded = map(_distinct, (space.orders, space.quantize_methods, space.bits, space.group_sizes))
    for order, quantize, bits, group_size in product(*rounded):
        point = {"order": order, "quantize": quantize, "bits": bits, "group_size": group_size}
        if "prune" not in order:
            yield point
            continue
        for prune, sparsity in product(_distinct(space.prune_methods), _distinct(space.sparsities)):
            yield {**point, "prune": prune, "sparsity": sparsity}


def first_point(space: SearchSpace) -> Point:
    """One point of the space, to check what all have in common with."""
    return next(points(space))


def _distinct(values: tuple[Any, ...]) -> list[Any]:
    return list(dict.fromkeys(values))
