"""How often a rollout is looked at."""

from __future__ import annotations

import pytest

from tasks.following import POLL_SECONDS, poll_seconds


@pytest.mark.parametrize(
    ("bake_seconds", "clock_speed", "expected"),
    [(300, 1, POLL_SECONDS), (0, 1, POLL_SECONDS), (180, 10, POLL_SECONDS), (120, 60, 0.5), (0, 60, 0.2)],
)
def test_no_step_of_a_fast_clock_passes_between_two_looks(
    bake_seconds: float, clock_speed: float, expected: float
) -> None:
    assert poll_seconds(bake_seconds, clock_speed) == expected
