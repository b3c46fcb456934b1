"""The evidence is an e-value: its mean under the hypothesis is at most 1, summed exactly, not simulated."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from tasks.serving.evidence import Side, quantile_evidence, share_evidence, two_share_evidence


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
