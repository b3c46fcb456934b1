"""A plan's rules on what CloudWatch counted: which metric decides, and against what."""

from __future__ import annotations

import numpy as np

from tasks.contracts import Answers, Observation
from tasks.findings import judged_cell
from tasks.plans import JudgeRules, Mode, ReleasePlan
from tasks.serving.canary import Verdict
from tasks.serving.judge import Counts
from tasks.verdicts import findings, judge_answers, quantile_ms

BOUNDS = tuple(float(bound) for bound in np.geomspace(1, 60_000, 200))


def answers(requests: int = 2000, errors: int = 0, median_ms: float = 100.0, seed: int = 0) -> Answers:
    values = np.sort(median_ms * np.random.default_rng(seed).lognormal(0, 0.3, requests))
    counts = np.searchsorted(values, BOUNDS, side="right")
    return Answers(
        requests=requests, errors=errors, bounds=BOUNDS, at_or_below=tuple(map(float, counts)), timed=requests
    )


def plan(mode: Mode = "CANARY", **rules: float) -> ReleasePlan:
    return ReleasePlan(mode=mode, judge=JudgeRules.model_validate(rules))


def test_equal_versions_are_promoted_and_worse_ones_taken_back_by_the_metric_that_is_worse() -> None:
    good = judge_answers(plan(), answers(seed=1), answers())
    assert good.verdict is Verdict.PROMOTE
    failing = judge_answers(plan(), answers(errors=200, seed=1), answers(errors=10))
    assert failing.verdict is Verdict.RESTORE and failing.reason.startswith("errors is worse")
    slow = judge_answers(plan(), answers(median_ms=220, seed=1), answers())
    assert slow.verdict is Verdict.RESTORE and slow.reason.startswith("latency is worse")


def beside(*minutes: tuple[int, int, int, int], **terms: float) -> Verdict:
    """The verdict on minutes of (requests, errors) of the new version and of the old one."""
    mine = tuple(answers(n, s, seed=at) for at, (n, s, _, _) in enumerate(minutes))
    base = tuple(answers(m, t, seed=100 + at) for at, (_, _, m, t) in enumerate(minutes))
    return judge_answers(plan(**terms), Answers(minutes=mine), Answers(minutes=base)).verdict


def test_errors_that_come_for_both_while_the_shares_change_are_nobodys_fault() -> None:
    """25, 50 and 75 % of the traffic at 1, 1 and 12 % errors of both: in all 8 % against 4 %."""
    steps = ((2500, 25, 7500, 75), (5000, 50, 5000, 50), (7500, 900, 2500, 300))
    assert judge_answers(plan(), answers(15_000, 975), answers(15_000, 425)).verdict is Verdict.RESTORE
    assert beside(*steps) is Verdict.PROMOTE


def test_a_falling_rate_does_not_hide_what_is_worse() -> None:
    """Three points worse all the time, while the rate of both falls and the new one's share rises."""
    steps = ((1000, 150, 3000, 360), (2000, 140, 2000, 80), (3000, 90, 1000, 0))
    assert judge_answers(plan(harmless=1), answers(6000, 380), answers(6000, 440)).verdict is Verdict.PROMOTE
    assert beside(*steps, harmless=1) is Verdict.WAIT
    assert beside(*steps) is Verdict.RESTORE


def test_what_the_new_version_answered_alone_is_not_compared() -> None:
    minutes = [(100, 1, 100, 1)] * 3
    alone = [(100, 30, 0, 0)] * 20
    assert beside(*minutes, *alone) is beside(*minutes) is Verdict.WAIT
    mine = Answers(requests=900, minutes=())
    assert judge_answers(plan(), mine, Answers(requests=900, minutes=())).verdict is Verdict.WAIT


def test_a_canary_is_compared_at_the_share_that_it_has() -> None:
    small = plan().model_copy(update={"step_percent": 10})
    mine = Answers(minutes=(answers(200, seed=1),) * 2)
    said = judge_answers(small, mine, Answers(minutes=(answers(1800), answers(900)))).findings[0]
    assert (said.requests, said.baseline_requests) == (300, 2700)


def test_worse_than_harmless_goes_back_before_it_is_beyond_the_margin() -> None:
    both = answers(1000, 50, seed=1), answers(1000, 10)
    assert judge_answers(plan(), *both).verdict is Verdict.RESTORE
    assert judge_answers(plan(harmless=1), *both).verdict is Verdict.WAIT
    slower = answers(1500, median_ms=150, seed=1), answers(1500)
    assert judge_answers(plan(), *slower).verdict is Verdict.RESTORE
    assert judge_answers(plan(harmless=1), *slower).verdict is Verdict.WAIT


def test_requests_that_only_the_new_version_calls_invalid_take_it_back() -> None:
    refusing = answers(seed=1).model_copy(update={"client_errors": 600})
    said = judge_answers(plan(), refusing, answers())
    assert said.verdict is Verdict.RESTORE and said.reason.startswith("4xx is worse")
    same = judge_answers(plan(), refusing, answers().model_copy(update={"client_errors": 600}))
    assert same.verdict is not Verdict.RESTORE, "the clients' own errors"


def test_without_an_old_version_beside_it_the_alarms_limits_decide() -> None:
    strict = plan("ALL_AT_ONCE").model_copy(update={"max_error_rate": 0.05, "max_latency_ms": 300.0})
    assert judge_answers(strict, answers(), None).verdict is Verdict.PROMOTE
    assert judge_answers(strict, answers(errors=300), None).verdict is Verdict.RESTORE
    slow = judge_answers(strict, answers(median_ms=400), None)
    assert slow.verdict is Verdict.RESTORE and slow.reason.startswith("slow answers")
    assert [finding.baseline_requests for finding in findings(slow)] == [0, 0]


def test_without_an_old_version_beside_it_what_that_called_invalid_before_is_the_reference() -> None:
    alone = plan("ALL_AT_ONCE").model_copy(update={"max_error_rate": 0.05, "max_latency_ms": 300.0})
    refusing = answers().model_copy(update={"client_errors": 600})
    said = judge_answers(alone, refusing, None, usual=Counts(3, 1000))
    assert said.verdict is Verdict.RESTORE and said.reason.startswith("4xx is worse")
    assert judge_answers(alone, refusing, None, usual=Counts(600, 2000)).verdict is not Verdict.RESTORE
    assert judge_answers(alone, refusing, None, usual=Counts(0, 99)).verdict is Verdict.PROMOTE, "too few to compare"


def test_a_shadow_must_agree() -> None:
    shadow = plan("SHADOW", min_agreement=0.8)
    assert judge_answers(shadow, answers(seed=1), answers(), Counts(285, 300)).verdict is Verdict.PROMOTE
    assert judge_answers(shadow, answers(seed=1), answers(), Counts(150, 300)).verdict is Verdict.RESTORE
    silent = judge_answers(shadow, answers(seed=1), answers(), Counts())
    assert silent.verdict is Verdict.WAIT and "agreement" in silent.reason


def test_no_traffic_waits_and_shows_no_figures() -> None:
    said = judge_answers(plan(), Answers(), Answers())
    assert said.verdict is Verdict.WAIT
    assert {(finding.candidate, finding.baseline) for finding in findings(said)} == {(None, None)}


def test_a_quantile_comes_from_the_histogram() -> None:
    found = quantile_ms(answers(), 0.5)
    assert found is not None and 90 < found < 115
    assert quantile_ms(Answers(), 0.5) is None


def test_a_look_says_how_many_requests_are_still_expected() -> None:
    found = findings(judge_answers(plan(), answers(100, seed=1), answers(100)))
    cell = judged_cell(Observation(at=0, status="", blue=None, green=None, alarms={}, findings=found, verdict="wait"))
    more = found[0].expected_requests
    assert more and cell.startswith("wait: errors 0.0% vs 0.0% (promote ") and f", about {more} requests more)" in cell
