"""The interval of a paired difference."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.compression.bootstrap import upper_drop


def test_equal_models_have_no_drop_and_one_that_is_always_worse_has_all_of_it() -> None:
    right = [1.0, 0.0, 0.5]
    assert upper_drop(right, right) == 0.0
    assert upper_drop([1.0] * 9, [0.8] * 9) == pytest.approx(0.2)


def test_it_covers_the_true_drop_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        teacher = generator.random(80)
        student = teacher - 0.03 + 0.2 * generator.standard_normal(80)
        covered += upper_drop(list(teacher), list(student), resamples=500, seed=trial) >= 0.03
    assert 0.89 <= covered / 200 <= 0.99


def test_more_questions_make_it_narrower() -> None:
    drops = np.random.default_rng(1).standard_normal(4000)
    few, many = (upper_drop(list(drops[:count]), [0.0] * count) - drops[:count].mean() for count in (40, 4000))
    assert many < few / 5
