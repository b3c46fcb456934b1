"""A plan's rules on what CloudWatch counted: which metric decides, and against what."""

from __future__ import annotations

import numpy as np

from tasks.contracts import Answers
from tasks.recipes import JudgeRules, Mode, ReleasePlan
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


def test_without_an_old_version_beside_it_the_alarms_limits_decide() -> None:
    strict = plan("ALL_AT_ONCE").model_copy(update={"max_error_rate": 0.05, "max_latency_ms": 300.0})
    assert judge_answers(strict, answers(), None).verdict is Verdict.PROMOTE
    assert judge_answers(strict, answers(errors=300), None).verdict is Verdict.RESTORE
    slow = judge_answers(strict, answers(median_ms=400), None)
    assert slow.verdict is Verdict.RESTORE and slow.reason.startswith("slow answers")
    assert [finding.baseline_requests for finding in findings(slow)] == [0, 0]


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
