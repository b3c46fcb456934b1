"""The interval of a paired difference."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.compression.bootstrap import drop


def test_equal_models_have_no_drop_and_one_that_is_always_worse_has_all_of_it() -> None:
    right = [1.0, 0.0, 0.5]
    assert drop(right, right).upper(0.95) == 0.0
    assert drop([1.0] * 9, [0.8] * 9).upper(0.95) == pytest.approx(0.2)


def test_it_covers_the_true_drop_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        teacher = generator.random(80)
        student = teacher - 0.03 + 0.2 * generator.standard_normal(80)
        covered += (drop(list(teacher), list(student)).upper(0.95) or 0.0) >= 0.03
    assert 0.89 <= covered / 200 <= 0.99


def test_more_questions_make_it_narrower() -> None:
    drops = np.random.default_rng(1).standard_normal(4000)
    few, many = ((drop(drops[:count], [0.0] * count).upper(0.95) or 0) - drops[:count].mean() for count in (40, 4000))
    assert many < few / 5


def test_questions_on_one_context_count_as_one() -> None:
    """Ten questions that are always right or wrong together say no more than one."""
    generator = np.random.default_rng(2)
    each = generator.random(30)
    alone = drop(each, np.zeros(30))
    tenfold = drop(np.repeat(each, 10), np.zeros(300), np.repeat(np.arange(30), 10).tolist())
    assert tenfold.items == alone.items == 30
    assert tenfold.upper(0.95) == pytest.approx(alone.upper(0.95))
    assert (drop(np.repeat(each, 10), np.zeros(300)).upper(0.95) or 1) < (alone.upper(0.95) or 0)
