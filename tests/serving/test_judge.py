"""Three verdicts, on data that is given: no clock, no calls."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.serving.canary import Verdict
from tasks.serving.judge import Counts, Data, QuantileRule, ShareRule, Values, judge

ERRORS = ShareRule("errors", worse="above", harmless=0.0, tolerated=0.02)
LATENCY = QuantileRule("latency", quantile=0.5, harmless=1.0, tolerated=1.2)
AGREEMENT = ShareRule("agreement", worse="below", harmless=0.0, tolerated=0.1, limit=0.8)


def latencies(factor: float, count: int = 800, seed: int = 0) -> Values:
    return Values(factor * np.random.default_rng(seed).lognormal(0, 0.3, count))


def test_no_data_waits() -> None:
    said = judge([ERRORS, LATENCY], {}, {})
    assert said.verdict is Verdict.WAIT
    assert [finding.requests for finding in said.findings] == [0, 0]
    assert "errors" in said.reason and "latency" in said.reason


def test_a_silent_candidate_beside_a_busy_baseline_waits() -> None:
    said = judge([ERRORS], {"errors": Counts()}, {"errors": Counts(10, 10_000)})
    assert said.verdict is Verdict.WAIT


def test_without_a_single_error_on_either_side_it_promotes_in_the_end() -> None:
    few, many = ({"errors": Counts(0, count)} for count in (50, 400))
    assert judge([ERRORS], few, few).verdict is Verdict.WAIT
    assert judge([ERRORS], many, many).verdict is Verdict.PROMOTE


def test_more_errors_restore_and_the_reason_says_which() -> None:
    said = judge([LATENCY, ERRORS], {"errors": Counts(50, 600)}, {"errors": Counts(6, 600)})
    assert said.verdict is Verdict.RESTORE
    assert said.reason.startswith("errors is worse: 0.08333 against 0.01")


def test_one_bad_metric_outweighs_good_ones() -> None:
    mine: dict[str, Data] = {"errors": Counts(0, 2000), "latency": latencies(1.5)}
    base: dict[str, Data] = {"errors": Counts(0, 2000), "latency": latencies(1.0, seed=1)}
    assert judge([ERRORS, LATENCY], mine, base).verdict is Verdict.RESTORE


def test_a_good_metric_does_not_promote_alone() -> None:
    mine: dict[str, Data] = {"errors": Counts(0, 2000)}
    assert judge([ERRORS, LATENCY], mine, mine).verdict is Verdict.WAIT
    optional = QuantileRule("latency", quantile=0.5, harmless=1.0, tolerated=1.2, must_have=False)
    assert judge([ERRORS, optional], mine, mine).verdict is Verdict.PROMOTE


def test_an_optional_metric_with_data_has_its_say() -> None:
    optional = QuantileRule("latency", quantile=0.5, harmless=1.0, tolerated=1.2, must_have=False)
    mine: dict[str, Data] = {"errors": Counts(0, 2000), "latency": latencies(1.0, count=20)}
    base: dict[str, Data] = {"errors": Counts(0, 2000), "latency": latencies(1.0, count=20, seed=1)}
    assert judge([ERRORS, optional], mine, base).verdict is Verdict.WAIT


def test_agreement_has_a_limit_and_no_baseline() -> None:
    assert judge([AGREEMENT], {"agreement": Counts(410, 500)}, {}).verdict is Verdict.PROMOTE
    assert judge([AGREEMENT], {"agreement": Counts(300, 500)}, {}).verdict is Verdict.RESTORE
    assert judge([AGREEMENT], {"agreement": Counts(375, 500)}, {}).verdict is not Verdict.PROMOTE


def test_many_rules_share_the_chance_of_a_false_alarm_by_weight() -> None:
    data: dict[str, Data] = {"errors": Counts(24, 300)}
    base: dict[str, Data] = {"errors": Counts(8, 300)}
    alone = judge([ERRORS], data, base).findings[0].restore
    light = judge([ERRORS, ShareRule("other", "above", 0.0, 0.02, weight=9.0)], data, base).findings[0].restore
    assert 0 < light < alone


def test_it_says_how_many_more_requests_it_expects() -> None:
    counts: dict[str, Data] = {"errors": Counts(0, 100)}
    finding = judge([ERRORS], counts, counts).findings[0]
    assert finding.expected_requests is not None and 50 < finding.expected_requests < 400
    assert 0 < finding.promote < 1
    worse: dict[str, Data] = {"errors": Counts(50, 100)}
    assert judge([ERRORS], worse, counts).findings[0].expected_requests == 0


def test_rules_and_counts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="harmless at most tolerated"):
        ShareRule("errors", worse="above", harmless=0.1, tolerated=0.02)
    with pytest.raises(ValueError, match="harmless at most tolerated"):
        QuantileRule("latency", quantile=0.5, harmless=0.9, tolerated=1.2)
    with pytest.raises(ValueError, match="between 0 and trials"):
        Counts(5, 3)
    with pytest.raises(ValueError, match="at least one rule"):
        judge([], {}, {})
    with pytest.raises(TypeError, match="judged by Counts"):
        judge([ERRORS], {"errors": latencies(1.0)}, {})
