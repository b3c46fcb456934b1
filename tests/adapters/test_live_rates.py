"""A rate measured on a live endpoint: real requests through the embedded service, as many at once as asked for."""

from __future__ import annotations

import pytest

from tasks.plans import ReleasePlan
from tasks.rates import NoRate, live_rate
from tests.adapters.releasing import Desk


def test_tokens_of_real_answers_are_divided_by_time_and_instances(desk: Desk) -> None:
    plan = ReleasePlan(endpoint="rated", mode="ALL_AT_ONCE", instances=2)
    desk.serve(plan)
    cloud = desk.cloud()
    found = live_rate(
        lambda prompt: cloud.probe("rated", prompt, {"max_new_tokens": 32}), lambda text: len(text.split()),
        ("one two", "three four"), requests=12, concurrency=4, instances=2,
    )  # fmt: skip
    assert found.tokens >= 12 and found.concurrency == 4 and found.instances == 2
    assert found.tokens_per_second == pytest.approx(found.tokens / found.seconds / 2)
    with pytest.raises(NoRate, match="without a token"):
        live_rate(
            lambda prompt: cloud.probe("rated", prompt), lambda text: 0, ("x",), requests=1, concurrency=1, instances=1
        )
