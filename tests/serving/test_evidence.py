"""The evidence is an e-value: its mean under the hypothesis is at most 1, summed exactly, not simulated."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.evidence import (
    Floats,
    Histogram,
    Side,
    binned_quantile_evidence,
    matched,
    quantile_evidence,
    share_evidence,
    two_share_evidence,
)


def binomial(trials: int, share: float) -> list[float]:
    return [comb(trials, ones) * share**ones * (1 - share) ** (trials - ones) for ones in range(trials + 1)]


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.93, 1.0])
def test_a_share_at_its_limit_makes_no_evidence_on_average(trials: int, share: float) -> None:
    sides: tuple[Side, ...] = ("above", "below")
    for side in sides:
        for within in (0.0, 0.05):
            limit = min(1.0, share + within) if side == "above" else max(0.0, share - within)
            evidence = share_evidence(np.arange(trials + 1), trials, limit, side)
            assert np.dot(binomial(trials, share), np.exp(evidence)) <= 1 + 1e-9


@pytest.mark.parametrize(("mine", "base"), [(12, 12), (5, 20), (20, 5)])
@pytest.mark.parametrize("margin", [0.0, 0.02, 0.3, -0.1])
def test_two_shares_at_the_margin_make_no_evidence_on_average(mine: int, base: int, margin: float) -> None:
    ones, base_ones = (counts.ravel() for counts in np.meshgrid(np.arange(mine + 1), np.arange(base + 1)))
    sides: tuple[Side, ...] = ("above", "below")
    for side in sides:
        evidence = two_share_evidence(ones, np.full_like(ones, mine), base_ones, np.full_like(ones, base), margin, side)
        for share in (0.1, 0.3, 0.65):
            chance = np.array(binomial(mine, share + margin))[ones] * np.array(binomial(base, share))[base_ones]
            assert np.dot(chance, np.exp(evidence)) <= 1 + 1e-9


@pytest.mark.parametrize("ratio", [1.0, 3.0])
@pytest.mark.parametrize(("margin", "side"), [(0.0, "above"), (0.05, "below")])
def test_rates_that_drift_while_the_shares_change_make_no_evidence_on_average(
    margin: float, side: Side, ratio: float
) -> None:
    """Two minutes, one new request in four and then three: summed over everything that can happen."""
    n, m = np.array([3, 10]), np.array([10, 3])
    rates = np.array([0.02, 0.6] if side == "above" else [0.6, 0.02])
    s1, s2, t1, t2 = (counts.ravel() for counts in np.meshgrid(*(np.arange(count + 1) for count in (*n, *m))))
    chance = np.ones(len(s1))
    for ones, count, rate in zip((s1, s2, t1, t2), (*n, *m), (*(rates + margin), *rates), strict=True):
        chance *= np.array(binomial(count, rate))[ones]

    def mean(mine: Floats, base: Floats) -> float:
        sums = mine[0] * s1 + mine[1] * s2, mine @ n, base[0] * t1 + base[1] * t2, base @ m
        return float(
            chance @ np.exp(two_share_evidence(*(np.broadcast_to(each, s1.shape) for each in sums), margin, side))
        )

    mine, base = matched(n, m, ratio)
    assert (base * m == pytest.approx(ratio * mine * n)) and max(*mine, *base) <= 1
    assert mean(mine, base) <= 1 + 1e-9
    assert mean(np.ones(2), np.ones(2)) > 1.5, "plain totals are misled (Simpson's paradox)"


def test_a_minute_in_which_only_one_side_answered_has_no_weight() -> None:
    mine, base = matched([10, 0, 7, 0], [0, 10, 7, 0])
    assert mine.tolist() == [0, 0, 1, 0] and base.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("quantile", [0.5, 0.8])
@pytest.mark.parametrize(("mine", "base"), [(5, 5), (3, 7)])
def test_equal_quantiles_make_no_evidence_on_average(mine: int, base: int, quantile: float) -> None:
    """Two samples of one continuous distribution: every order of them is as likely as any other."""
    orders = list(combinations(range(1, mine + base + 1), mine))
    sides: tuple[Side, ...] = ("above", "below")
    for side in sides:
        total = 0.0
        for order in orders:
            rest = sorted(set(range(1, mine + base + 1)) - set(order))
            total += float(np.exp(quantile_evidence(order, rest, quantile, 1.0, side)))
        assert total / len(orders) <= 1 + 1e-9


def test_a_real_difference_makes_evidence() -> None:
    assert share_evidence(30, 100, 0.1, "above") > 10
    assert two_share_evidence(50, 1000, 10, 1000, 0.0, "above") > 10
    random = np.random.default_rng(0)
    base = random.lognormal(0, 0.3, 400)
    assert quantile_evidence(1.3 * random.lognormal(0, 0.3, 400), base, 0.5, 1.0, "above") > 10
    assert quantile_evidence(1.0 * random.lognormal(0, 0.3, 400), base, 0.5, 1.3, "below") > 10


def test_no_errors_at_all_is_evidence_that_there_are_few() -> None:
    assert two_share_evidence(0, 500, 0, 500, 0.02, "below") > np.log(20)
    assert two_share_evidence(0, 500, 0, 500, 0.0, "above") <= 0


def test_no_data_is_no_evidence() -> None:
    assert share_evidence(0, 0, 0.3, "above") == pytest.approx(0)
    assert two_share_evidence(0, 0, 0, 0, 0.1, "below") == pytest.approx(0)
    assert quantile_evidence([], [1.0, 2.0], 0.5, 1.0, "above") == 0


def test_equal_values_are_not_taken_for_evidence() -> None:
    """A clock in whole milliseconds gives many ties."""
    assert quantile_evidence([5.0] * 500, [5.0] * 500, 0.5, 1.0, "above") <= 0
    assert quantile_evidence([5.0] * 500, [5.0] * 500, 0.5, 1.0, "below") <= 0


def test_many_pairs_at_once_give_what_each_gives_alone() -> None:
    ones, base = np.array([3, 9, 0]), np.array([1, 9, 4])
    together = two_share_evidence(ones, np.full(3, 50), base, np.full(3, 60), 0.01, "above")
    alone = [float(two_share_evidence(a, 50, b, 60, 0.01, "above")) for a, b in zip(ones, base, strict=True)]
    np.testing.assert_allclose(together, alone)


def binned(values: Floats, bounds: Floats) -> Histogram:
    return Histogram(bounds, np.searchsorted(np.sort(values), bounds, side="right").astype(float), len(values))


def log_bounds(count: int) -> Floats:
    return np.geomspace(0.05, 20, count)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([0.5, 0.9]), st.sampled_from([1.0, 1.3]), st.sampled_from(["above", "below"]),
)  # fmt: skip
def test_a_histogram_never_makes_more_evidence_than_its_values(
    seed: int, mine: int, base: int, bins: int, base_bins: int, quantile: float, ratio: float, side: Side
) -> None:
    random = np.random.default_rng(seed)
    # Two decimals: many ties, and values that lie on a bound.
    x, y = (np.round(random.lognormal(0, 0.7, count), 2) for count in (mine, base))
    exact = quantile_evidence(x, y, quantile, ratio, side)
    bounds, others = np.unique(np.round(log_bounds(bins), 2)), np.unique(np.round(log_bounds(base_bins), 2))
    assert binned_quantile_evidence(binned(x, bounds), binned(y, others), quantile, ratio, side) <= exact + 1e-9


@pytest.mark.parametrize("side", ["above", "below"])
def test_a_histogram_at_the_limit_is_seldom_taken_for_evidence_however_often_one_looks(side: Side) -> None:
    """The candidate's quantile is exactly ``ratio`` times the baseline's; looked at every ten requests, bins moving."""
    random, ratio, wrong, runs = np.random.default_rng(1), 1.2, 0, 200
    for _ in range(runs):
        x, y = ratio * random.lognormal(0, 0.4, 300), random.lognormal(0, 0.4, 300)
        for seen in range(10, 301, 10):
            center = float(np.quantile(y[:seen], 0.9))  # chosen by looking
            bounds = np.unique(np.concatenate([log_bounds(20), center * np.geomspace(0.7, 1.5, 25)]))
            mine, base = binned(x[:seen], bounds), binned(y[:seen], bounds)
            if binned_quantile_evidence(mine, base, 0.9, ratio, side) >= np.log(1 / 0.05):
                wrong += 1
                break
    assert wrong / runs <= 0.05


def test_fine_bins_lose_little_and_coarse_ones_lose_power_only() -> None:
    random = np.random.default_rng(0)
    x, y = 1.5 * random.lognormal(0, 0.3, 400), random.lognormal(0, 0.3, 400)
    exact = quantile_evidence(x, y, 0.5, 1.0, "above")
    fine, coarse = (
        binned_quantile_evidence(binned(x, bounds), binned(y, bounds), 0.5, 1.0, "above")
        for bounds in (log_bounds(400), log_bounds(8))
    )
    assert 0.8 * exact < fine <= exact and coarse < fine


def test_a_histogram_without_values_is_no_evidence() -> None:
    nothing = Histogram(np.empty(0), np.empty(0), 0)
    assert binned_quantile_evidence(nothing, binned(np.ones(50), log_bounds(9)), 0.5, 1.0, "above") == 0
    unbinned = Histogram(np.empty(0), np.empty(0), 50)  # values whose size nothing is known of
    assert binned_quantile_evidence(unbinned, unbinned, 0.5, 1.0, "above") <= 0
