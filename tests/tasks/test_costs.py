"""The arithmetic of costs: it is monotone, it adds up, and where it says that costs are even they are."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts import FleetShare, Observation, Price
from tasks.costs import (
    MILLION,
    MONTH_HOURS,
    Fleet,
    break_even_load,
    break_even_tokens,
    observed_hours,
    rollout_cost,
    token_cost,
    usd_per_million,
    with_observed,
)
from tasks.plans import JudgeRules, Mode, ReleasePlan

PRICE = Price(
    instance_type="ml.m5.xlarge", region="us-east-1", usd_per_hour=0.23, as_of="2026-09-28", source="s", quoted=True
)
dollars = st.floats(0.05, 100)
rates = st.floats(0.5, 20_000)
shares = st.floats(0.05, 1)
bills = st.floats(0.01, 5_000)


def fleets() -> st.SearchStrategy[Fleet]:
    return st.builds(Fleet, dollars, rates, shares, st.integers(0, 4))


def test_an_hour_of_one_instance_by_hand() -> None:
    """16.5 tokens a second are 59,400 an hour: $0.23 for those is $3.87 a million. 110.3: $0.58."""
    assert usd_per_million(0.23, 16.5) == pytest.approx(3.872, abs=1e-3)
    cost = token_cost(PRICE, "here", 16.5, 110.3, compression_seconds=3600)
    assert cost.candidate_usd == pytest.approx(0.579, abs=1e-3) and cost.compression_usd == 0.23
    assert cost.break_even_tokens == pytest.approx(0.23 / (3.8720 - 0.5792) * 1e6, rel=1e-3)


@given(dollars, rates, shares, st.floats(1.01, 10))
def test_dearer_slower_and_idler_all_cost_more(price: float, rate: float, busy: float, more: float) -> None:
    cost = usd_per_million(price, rate, busy)
    assert usd_per_million(price * more, rate, busy) > cost
    assert usd_per_million(price, rate * more, busy) < cost
    assert usd_per_million(price, rate, busy / more) > cost


@pytest.mark.parametrize(("rate", "busy"), [(0.0, 1.0), (-1.0, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_what_is_no_rate_and_no_share_is_refused(rate: float, busy: float) -> None:
    with pytest.raises(ValueError, match=r"rate|utilisation"):
        usd_per_million(1.0, rate, busy)


@given(fleets(), st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_higher_load_never_costs_less_and_is_carried(fleet: Fleet, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert fleet.usd_a_month(low) <= fleet.usd_a_month(high)
    assert fleet.instances(high) * fleet.capacity >= high * (1 - 1e-12)
    assert fleet.instances(high) == fleet.least or (fleet.instances(high) - 1) * fleet.capacity < high


@given(dollars, rates, shares)
def test_a_full_fleet_costs_what_its_tokens_cost(price: float, rate: float, busy: float) -> None:
    fleet = Fleet(price, rate, busy, least=0)
    tokens = 7 * fleet.capacity * (1 - 1e-9)
    assert fleet.usd_a_month(tokens) == pytest.approx(tokens / MILLION * usd_per_million(price, rate, busy), rel=1e-6)


@given(bills, st.floats(0.001, 1_000), st.floats(0.001, 1_000))
def test_after_the_break_even_both_have_cost_the_same(run: float, was: float, now: float) -> None:
    tokens = break_even_tokens(run, was, now)
    if now >= was:
        assert tokens is None
        return
    assert tokens is not None and tokens > 0
    # Relative to the sums that are subtracted: two prices may be nearly equal.
    assert tokens / MILLION * was == pytest.approx(run + tokens / MILLION * now, rel=1e-6)
    assert break_even_tokens(2 * run, was, now) == pytest.approx(2 * tokens)


@settings(deadline=None, max_examples=60)
@given(bills, st.builds(Fleet, dollars, st.floats(0.5, 50)), st.floats(1.2, 20), st.floats(0.5, 12))
def test_the_break_even_load_pays_and_no_smaller_one_does(
    run: float, baseline: Fleet, faster: float, months: float
) -> None:
    candidate = Fleet(baseline.usd_per_hour, baseline.tokens_per_second * faster)
    load = break_even_load(run, baseline, candidate, months)
    assert load is not None

    def saved(tokens: float) -> float:
        return (baseline.usd_a_month(tokens) - candidate.usd_a_month(tokens)) * months

    assert saved(load) >= run
    # Savings are constant between the loads at which either fleet grows: one look just before and at each will do.
    steps = {math.floor(each * fleet.capacity) for fleet in (baseline, candidate) for each in range(1, 60)}
    assert all(saved(tokens) < run for step in steps for tokens in (step - 1, step, step + 1) if 0 < tokens < load)


def test_where_nothing_is_saved_there_is_no_load_and_where_all_is_any_will_do() -> None:
    dear, cheap = Fleet(1.0, 10.0), Fleet(0.2, 10.0)
    assert break_even_load(1.0, cheap, dear, 12) is None
    assert break_even_load(1.0, dear, cheap, 12) == 1


MODES: tuple[Mode, ...] = get_args(Mode)


@given(st.sampled_from(MODES), st.integers(2, 20), st.integers(60, 3540), st.integers(10, 50))
def test_a_rollout_costs_more_with_more_instances_and_longer_bakes(
    mode: Mode, count: int, bake: int, step: int
) -> None:
    def cost(**more: int) -> tuple[float, float]:
        given = {"instances": count, "bake_seconds": bake, "step_percent": step} | more
        found = rollout_cost(ReleasePlan.model_validate({"mode": mode, **given}), PRICE)
        assert 0 < found.usd[0] < found.usd[1] and found.extra_instances >= 1
        assert found.usd == pytest.approx([hours * PRICE.usd_per_hour for hours in found.hours])
        return found.usd

    low, high = cost()
    assert all(more >= less for more, less in zip(cost(bake_seconds=bake + 60), (low, high), strict=True))
    assert all(more >= less for more, less in zip(cost(instances=2 * count), (low, high), strict=True))


@pytest.mark.parametrize(
    ("mode", "extra", "least"),
    [
        ("CANARY", 4, 4 * 2 * 600), ("LINEAR", 4, 4 * 4 * 600), ("ALL_AT_ONCE", 4, 4 * 600),
        ("ROLLING", 1, 1 * 4 * 600), ("WEIGHTS", 8, 4 * 3 * 600), ("AB_TEST", 8, 4 * 600),
        ("SHADOW", 8, 4 * 600 + 4 * 2 * 600),
    ],
)  # fmt: skip
def test_each_mode_by_hand(mode: Mode, extra: int, least: float) -> None:
    """Four instances, 25 %, ten minutes: the table of docs/release.md times the bakes."""
    cost = rollout_cost(ReleasePlan(mode=mode, instances=4, step_percent=25, bake_seconds=600), PRICE)
    assert (cost.extra_instances, cost.hours[0] * 3600) == (extra, pytest.approx(least))


def test_patience_is_in_the_most_that_a_trial_may_cost() -> None:
    short, long = (
        rollout_cost(ReleasePlan(mode="AB_TEST", judge=JudgeRules(patience_seconds=seconds)), PRICE)
        for seconds in (600, 4200)
    )
    assert long.usd[1] - short.usd[1] == pytest.approx(2 * 1.0 * PRICE.usd_per_hour) and long.usd[0] == short.usd[0]


def look(at: float, old: int, new: int) -> Observation:
    def fleet(config: str, instances: int) -> FleetShare:
        return FleetShare(config=config, weight=0.5, instances=instances, requests=0, errors=0)

    return Observation(at=at, status="Updating", blue=fleet("b", old), green=fleet("g", new), alarms={})


def test_what_was_seen_is_counted_beside_the_old_fleet() -> None:
    seen = (look(0, 2, 0), look(600, 2, 2), look(1800, 2, 2), look(2400, 0, 2), look(3000, 0, 2))
    assert observed_hours(seen) == pytest.approx(2 * 1800 / 3600)
    cost = with_observed(rollout_cost(ReleasePlan(), PRICE), seen)
    assert cost.observed_usd == pytest.approx(0.23) and MONTH_HOURS == 8760 / 12
    assert observed_hours(seen[:1]) is None and observed_hours((look(0, 0, 2), look(9, 0, 2))) is None
