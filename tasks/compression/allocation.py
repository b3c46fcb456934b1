"""Divide one budget among layers whose errors at some costs were measured: how many zeros, or how many bits, for each.

Each layer has a curve of error over cost (bits that are stored, or weights that stay). The sum of errors under a bound
on the sum of costs is least, among what a Lagrange multiplier can reach, when every layer stands on the lower convex
hull of its curve and the steps along all hulls are taken in the order of what they gain per unit of cost (Shoham &
Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers", IEEE Transactions on Acoustics, Speech, and
Signal Processing 36(9), section III). The order does not depend on the budget, so a larger budget never does worse.

Pure: no tensors, no files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Curve:
    """What one layer loses at each cost that was tried.

    Attributes:
        costs: strictly rising; any unit that sums over layers.
        errors: one a cost, not negative; any unit that sums over layers.
    """

    costs: tuple[float, ...]
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.costs or len(self.costs) != len(self.errors):
            raise ValueError(f"{len(self.costs)} costs and {len(self.errors)} errors")
        if any(after <= before for before, after in pairwise(self.costs)):
            raise ValueError(f"costs do not rise: {self.costs}")

    @property
    def hull(self) -> tuple[int, ...]:
        """Places on the lower convex hull, from the cheapest to the least error: each step gains less per cost."""
        kept: list[int] = []
        for place, error in enumerate(self.errors):
            if kept and error >= self.errors[kept[-1]]:
                continue
            while len(kept) > 1 and self._slope(kept[-2], kept[-1]) <= self._slope(kept[-1], place):
                kept.pop()
            kept.append(place)
        return tuple(kept)

    def _slope(self, first: int, last: int) -> float:
        """What a unit of cost gains between two places."""
        return (self.errors[first] - self.errors[last]) / (self.costs[last] - self.costs[first])

    def error_at(self, cost: float) -> float:
        """On the hull, straight between its places; the ends' beyond them."""
        hull = self.hull
        after = bisect_right([self.costs[place] for place in hull], cost)
        if after in (0, len(hull)):
            return self.errors[hull[0 if after == 0 else -1]]
        first, last = hull[after - 1], hull[after]
        return self.errors[first] - self._slope(first, last) * (cost - self.costs[first])


@dataclass(frozen=True)
class _Step:
    layer: int
    first: int
    last: int
    gain: float  # error for a unit of cost


def _steps(curves: Sequence[Curve]) -> list[_Step]:
    """Every step along every hull, best first; those of one layer stay in their order."""
    found = [
        _Step(layer, first, last, curve._slope(first, last))
        for layer, curve in enumerate(curves)
        for first, last in pairwise(curve.hull)
    ]
    return sorted(found, key=lambda step: -step.gain)


def _cheapest(curves: Sequence[Curve], budget: float) -> float:
    """What all layers cost at least.

    Raises:
        ValueError: more than the budget.
    """
    least = sum(curve.costs[0] for curve in curves)
    if least > budget:
        raise ValueError(f"the cheapest choice for every layer costs {least:g}, more than the budget of {budget:g}")
    return least


def choose(curves: Sequence[Curve], budget: float) -> tuple[int, ...]:
    """The place of each layer on its own curve; costs sum to ``budget`` at most, errors to no more than uniformly.

    Steps are taken until the first that the budget cannot pay, so up to one step's cost may be left over. Where the
    same place for all layers is affordable and loses less (short of budget, or curves that are not convex), it is it.

    Raises:
        ValueError: even the cheapest place of every layer is beyond the budget.
    """
    spent, chosen = _cheapest(curves, budget), [0] * len(curves)
    for step in _steps(curves):
        spent += curves[step.layer].costs[step.last] - curves[step.layer].costs[step.first]
        if spent > budget:
            break
        chosen[step.layer] = step.last
    alike = min(len(curve.costs) for curve in curves)
    best = tuple(chosen)
    for uniform in ((place,) * len(curves) for place in range(alike)):
        fits = _sum(curves, uniform, "costs") <= budget
        if fits and _sum(curves, uniform, "errors") < _sum(curves, best, "errors"):
            best = uniform
    return best


def _sum(curves: Sequence[Curve], places: Sequence[int], what: str) -> float:
    return float(sum(getattr(curve, what)[place] for curve, place in zip(curves, places, strict=True)))


def divide(curves: Sequence[Curve], budget: float) -> tuple[float, ...]:
    """The cost of each layer where any cost between those tried can be had; they sum to ``budget``.

    All layers but one end at a place of their hull; one stops on the way, so that the budget is met. Beyond the last
    step that gains anything the rest is left over.

    Raises:
        ValueError: even the cheapest place of every layer is beyond the budget.
    """
    left, costs = budget - _cheapest(curves, budget), [curve.costs[0] for curve in curves]
    for step in _steps(curves):
        paid = min(left, curves[step.layer].costs[step.last] - curves[step.layer].costs[step.first])
        costs[step.layer] += paid
        left -= paid
        if left <= 0:
            break
    return tuple(costs)
