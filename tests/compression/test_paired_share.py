"""The interval of a share that one model loses against another: it covers, also where hardly an item differs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from tasks.compression.paired import PairedMean, needed_items
from tasks.compression.paired_share import PairedShare, drop, score


def numerically(lost: int, won: int, items: int, difference: float) -> float:
    """The same statistic, its likelihood maximised by scipy."""

    def unlikely(share: float) -> float:
        rest = 1 - 2 * share - difference
        return -(lost * math.log(share + difference) + won * math.log(share) + (items - lost - won) * math.log(rest))

    edges = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    share = minimize_scalar(unlikely, bounds=edges, method="bounded", options={"xatol": 1e-12}).x
    spread = math.sqrt(items * (2 * share + difference * (1 - difference)))
    return (lost - won - items * difference) / spread


@pytest.mark.parametrize(("lost", "won", "items"), [(40, 20, 160), (3, 1, 44), (5, 7, 30)])
@pytest.mark.parametrize("difference", [-0.2, 0.01, 0.3])
def test_it_is_the_score_at_the_likeliest_shares(lost: int, won: int, items: int, difference: float) -> None:
    assert score(lost / items, won / items, items, difference) == pytest.approx(
        numerically(lost, won, items, difference), abs=1e-4
    )


def test_the_ends_are_where_the_score_has_the_chance_that_is_left() -> None:
    found = PairedShare([1.0] * 40 + [-1.0] * 20 + [0.0] * 100)
    upper, lower = found.upper(0.975), found.lower(0.975)
    assert upper is not None and lower is not None and lower < found.value < upper
    assert score(0.25, 0.125, 160, upper) == pytest.approx(-norm.ppf(0.975))
    assert found.p_above(lower) == pytest.approx(0.025) and found.p_below(upper) == pytest.approx(0.025)


@pytest.mark.parametrize("items", [2, 8, 100])
def test_items_that_all_come_out_alike_prove_no_more_than_their_number_does(items: int) -> None:
    same = drop([1.0] * items, [1.0] * items)
    normal = norm.ppf(0.95) ** 2
    assert same.upper(0.95) == pytest.approx(normal / (items + normal))
    assert same.lower(0.95) == pytest.approx(-normal / (items + normal))
    assert same.p_above(0.0) == pytest.approx(0.5) and PairedShare([0.0]).upper(0.95) is None
    needed = needed_items(0.0, same.error, items, 0.02, 0.95, same.upper(0.95))
    assert needed == 133 and (drop([1.0] * 133, [1.0] * 133).upper(0.95) or 1.0) <= 0.02


@pytest.mark.parametrize(("items", "limit"), [(8, 0.1), (50, 0.02), (100, 0.03), (200, 0.02)])
def test_one_at_the_limit_passes_as_rarely_as_it_says(items: int, limit: float) -> None:
    random, runs = np.random.default_rng(items), 400
    losses = random.random((runs, items)) < limit
    passed = sum((drop([1.0] * items, 1.0 - row).upper(0.95) or 1.0) <= limit for row in losses)
    assert passed / runs <= 0.08, "0.05 promised; two and a half standard errors of so many runs"


def test_figures_that_differ_everywhere_have_the_bootstraps_interval() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        teacher = random.random(80)
        student = teacher - 0.03 + 0.2 * random.standard_normal(80)
        found = drop(list(teacher), list(student))
        covered += isinstance(found, PairedMean) and (found.upper(0.95) or 0.0) >= 0.03
    assert 0.89 <= covered / 200 <= 0.99
    assert drop([1.0] * 40, [0.8] * 40).upper(0.95) == pytest.approx(0.2)
    assert isinstance(drop([30.0] * 4, [28.0] * 4), PairedMean), "no share at all"


def test_parts_of_an_item_make_it_wider_and_never_narrower() -> None:
    halves, wholes = PairedShare([0.5] * 4 + [0.0] * 46), PairedShare([1.0] * 2 + [0.0] * 48)
    assert halves.value == wholes.value and halves.upper(0.95) == pytest.approx(wholes.upper(0.95))


def test_questions_on_one_context_count_as_one() -> None:
    """Ten questions that are always right or wrong together say little more than one."""
    random = np.random.default_rng(2)
    each = (random.random(30) < 0.2).astype(float)
    alone = drop(each, np.zeros(30).tolist())
    tenfold = drop(np.repeat(each, 10).tolist(), np.zeros(300).tolist(), np.repeat(np.arange(30), 10).tolist())
    apart = drop(np.repeat(each, 10).tolist(), np.zeros(300).tolist())
    ends = [found.upper(0.95) or 0.0 for found in (alone, tenfold, apart)]
    assert tenfold.items == alone.items == 30
    assert ends[1] == pytest.approx(ends[0]) and ends[2] < ends[0]
    same = drop([1.0] * 100, [1.0] * 100, np.repeat(np.arange(5), 20).tolist())
    assert same.upper(0.95) == pytest.approx(norm.ppf(0.95) ** 2 / (5 + norm.ppf(0.95) ** 2)), "five contexts"
    dense = random.random(40)
    assert isinstance(drop(np.repeat(dense, 2).tolist(), [0.0] * 80, np.repeat(np.arange(40), 2).tolist()), PairedMean)


@pytest.mark.parametrize(("contexts", "each", "limit"), [(5, 20, 0.05), (20, 10, 0.03), (60, 5, 0.05)])
def test_a_reader_that_loses_whole_contexts_passes_as_rarely_as_it_says(contexts: int, each: int, limit: float) -> None:
    random, runs, groups = np.random.default_rng(contexts), 300, np.repeat(np.arange(contexts), each).tolist()
    lost = np.repeat(random.random((runs, contexts)) < limit, each, axis=1)
    passed = sum((drop([1.0] * len(groups), 1.0 - row, groups).upper(0.95) or 1.0) <= limit for row in lost)
    assert passed / runs <= 0.09, "0.05 promised; three standard errors of so many runs"


def test_more_questions_make_it_narrower() -> None:
    drops = np.random.default_rng(1).random(4000)
    few, many = ((drop(drops[:count], [0.0] * count).upper(0.95) or 0) - drops[:count].mean() for count in (40, 4000))
    assert many < few / 5
