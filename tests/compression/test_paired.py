"""The gate's statistics: intervals that hold, exact ones where they are exact, and how many items are needed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.compression.paired import ClusteredShare, PairedMean, by_group, holm, needed_items, sign_test


def test_a_candidate_at_the_limit_passes_as_rarely_as_it_says_on_skewed_blocks() -> None:
    """And the figure alone lets every second one through (``python -m benchmarks.gate`` has the whole table)."""
    random, limit, runs, ours, alone = np.random.default_rng(0), 0.1, 400, 0, 0
    for _ in range(runs):
        blocks = limit + 0.08 * (random.gamma(1.0, 1.0, 16) - 1)
        ours += (PairedMean(blocks, resamples=600).upper(0.95) or 1.0) <= limit
        alone += blocks.mean() <= limit
    assert ours / runs <= 0.09, "0.05 promised; three standard errors of so many runs above the benchmark's rate"
    assert alone / runs > 0.4


def test_a_candidate_as_good_as_the_original_passes() -> None:
    random = np.random.default_rng(1)
    passed = [(PairedMean(0.05 * random.standard_normal(16)).upper(0.95) or 1.0) <= 0.1 for _ in range(100)]
    assert sum(passed) >= 99


def test_blocks_of_different_lengths_are_weighted_by_their_positions() -> None:
    mean = PairedMean([10.0, 60.0, 5.0], [10, 30, 10])
    assert mean.value == pytest.approx(75 / 50)
    lower, upper = mean.lower(0.95), mean.upper(0.95)
    assert lower is not None and upper is not None and lower < mean.value < upper


def test_one_item_proves_nothing_and_equal_items_have_no_spread() -> None:
    for one in (PairedMean([0.1]), ClusteredShare([9], [10])):
        assert one.upper(0.95) is None and one.lower(0.95) is None
        assert one.p_above(0.0) == 1.0
    same = PairedMean([0.1 * 255] * 16, [255] * 16)
    assert same.upper(0.95) == same.lower(0.95) == pytest.approx(0.1)
    assert (same.p_above(0.05), same.p_above(0.2)) == (0.0, 1.0)


def test_two_to_seven_items_have_students_interval() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.25])
    upper = values.mean() + 2.353363 * values.std(ddof=1) / 2  # t of 3 degrees of freedom at 0.95
    assert PairedMean(values).upper(0.95) == pytest.approx(upper, rel=1e-5)


def test_shares_without_clusters_have_the_exact_interval_of_clopper_and_pearson() -> None:
    ones, counts = [40] * 40, [50] * 40
    exact = binomtest(1600, 2000, alternative="greater").proportion_ci(0.95, "exact").low
    lower = ClusteredShare(ones, counts).lower(0.95)
    assert lower == pytest.approx(exact, abs=1e-3)
    assert lower is not None and lower < exact, "few items are a little less sure of their spread"


def test_clusters_make_a_share_less_sure() -> None:
    random = np.random.default_rng(2)
    counts = np.full(16, 255.0)
    clustered = ClusteredShare(random.binomial(255, random.beta(8, 2, 16)), counts)
    alone = ClusteredShare(random.binomial(255, 0.8, 16), counts)
    assert clustered.value - (clustered.lower(0.95) or 0) > 2 * (alone.value - (alone.lower(0.95) or 0))


def test_an_agreement_of_all_positions_is_not_called_certain() -> None:
    lower = ClusteredShare([255] * 16, [255] * 16).lower(0.95)
    assert lower is not None and 0.998 < lower < 1.0
    assert ClusteredShare([255] * 16, [255] * 16).upper(0.95) == 1.0
    assert ClusteredShare([0] * 16, [255] * 16).lower(0.95) == 0.0


def test_chances_go_with_intervals() -> None:
    """A limit that the interval just reaches has the chance that is left over."""
    random = np.random.default_rng(3)
    mean = PairedMean(random.gamma(1.0, 1.0, 24), resamples=8000)
    lower, upper = mean.lower(0.9), mean.upper(0.9)
    assert lower is not None and upper is not None
    assert mean.p_above(lower) == pytest.approx(0.1, abs=0.005)
    assert mean.p_below(upper) == pytest.approx(0.1, abs=0.03)
    share = ClusteredShare(random.binomial(100, 0.7, 20), np.full(20, 100.0))
    low = share.lower(0.95)
    assert low is not None and share.p_above(low) == pytest.approx(0.05, abs=1e-6)


def test_half_the_distance_needs_four_times_the_items() -> None:
    mean = PairedMean(np.random.default_rng(4).standard_normal(400))
    bound = mean.upper(0.95)
    near, far = (needed_items(mean.value, mean.error, 400, mean.value + d, 0.95, bound) for d in (0.1, 0.2))
    assert near is not None and far is not None and near / far == pytest.approx(4, rel=0.05)
    assert far == pytest.approx((1.645 + 0.8416) ** 2 / 0.2**2, rel=0.15)  # spread 1
    assert needed_items(0.1, 0.01, 16, 0.1, 0.95, 0.12) is None
    assert needed_items(0.1, 0.0, 1, 0.2, 0.95, None) is None


def test_holm_and_the_exact_test_of_signs() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert sign_test([1, 1, 1, 1, 1, 0, -1]) == pytest.approx(binomtest(5, 6).pvalue)
    assert sign_test([0, 0]) is None


def test_values_are_summed_by_group() -> None:
    sums, counts = by_group([1.0, 2.0, 4.0], ["b", "a", "b"])
    assert sums.tolist() == [5.0, 2.0] and counts.tolist() == [2.0, 1.0]
