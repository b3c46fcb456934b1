"""One budget among layers: never exceeded, never worse than alike for all, never worse for more."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.compression.allocation import Curve, choose, divide

COSTS = (2, 3, 4, 8)


@st.composite
def curves(draw: st.DrawFn) -> list[Curve]:
    """Layers of different sizes, errors in any order: measured curves need not fall."""
    count = draw(st.integers(1, 5))
    return [
        Curve(
            tuple(float(cost * size) for cost in COSTS),
            tuple(draw(st.lists(st.integers(0, 1000).map(float), min_size=len(COSTS), max_size=len(COSTS)))),
        )
        for size in draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    ]


def cost(layers: list[Curve], places: tuple[int, ...]) -> float:
    return sum(curve.costs[place] for curve, place in zip(layers, places, strict=True))


def error(layers: list[Curve], places: tuple[int, ...]) -> float:
    return sum(curve.errors[place] for curve, place in zip(layers, places, strict=True))


def budgets(layers: list[Curve], *shares: float) -> list[float]:
    least, most = (sum(curve.costs[end] for curve in layers) for end in (0, -1))
    return [least + share * (most - least) for share in shares]


@given(layers=curves(), share=st.floats(0, 1))
def test_a_choice_keeps_the_budget_and_loses_no_more_than_one_for_all(layers: list[Curve], share: float) -> None:
    (budget,) = budgets(layers, share)
    chosen = choose(layers, budget)
    assert cost(layers, chosen) <= budget
    for place in range(len(COSTS)):
        alike = (place,) * len(layers)
        assert cost(layers, alike) > budget or error(layers, chosen) <= error(layers, alike)


@given(layers=curves(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_larger_budget_never_loses_more(layers: list[Curve], shares: list[float]) -> None:
    less, more = budgets(layers, *shares)
    assert error(layers, choose(layers, more)) <= error(layers, choose(layers, less))
    errors = [
        sum(curve.error_at(spent) for curve, spent in zip(layers, divide(layers, budget), strict=True))
        for budget in (less, more)
    ]
    assert errors[1] <= errors[0] + 1e-6


@given(layers=curves(), share=st.floats(0, 1))
def test_no_choice_of_the_same_cost_on_the_hulls_loses_less(layers: list[Curve], share: float) -> None:
    hulls = [Curve(tuple(c.costs[p] for p in c.hull), tuple(c.errors[p] for p in c.hull)) for c in layers]
    (budget,) = budgets(hulls, share)
    chosen = choose(hulls, budget)
    assume(len(set(chosen)) > 1)  # one place for all layers is no step along the hulls: it stands where those lose more
    spent = cost(hulls, chosen)
    every = product(*(range(len(curve.costs)) for curve in hulls))
    best = min(error(hulls, places) for places in every if cost(hulls, places) <= spent)
    assert error(hulls, chosen) == pytest.approx(best)


@given(layers=curves(), share=st.floats(0, 1))
def test_a_division_meets_the_budget(layers: list[Curve], share: float) -> None:
    hulls = [Curve(tuple(c.costs[p] for p in c.hull), tuple(c.errors[p] for p in c.hull)) for c in layers]
    (budget,) = budgets(hulls, share)
    costs = divide(hulls, budget)
    assert sum(costs) == pytest.approx(budget)
    for curve, spent in zip(hulls, costs, strict=True):
        assert curve.costs[0] <= spent <= curve.costs[-1] + 1e-9


def test_the_sensitive_layer_gets_the_bits() -> None:
    calm = Curve((2.0, 4.0, 8.0), (1.0, 0.5, 0.4))
    nervous = Curve((2.0, 4.0, 8.0), (100.0, 10.0, 1.0))
    assert choose([calm, nervous], 9.0) == (1, 1)  # what is left over pays for no whole step
    assert choose([calm, nervous], 10.0) == (0, 2)
    assert divide([calm, nervous], 9.0) == (2.0, 7.0)


def test_a_budget_below_the_cheapest_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the budget"):
        choose([Curve((2.0, 4.0), (1.0, 0.0))], 1.0)
