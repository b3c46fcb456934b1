"""A release plan's rules, and the judge's verdict on what both versions have answered."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np

from tasks.contracts import Answers, Finding
from tasks.recipes import ReleasePlan
from tasks.serving.evidence import Histogram
from tasks.serving.judge import Counts, Data, Judgement, QuantileRule, Rule, ShareRule, judge

ERRORS, LATENCY, SLOW, AGREEMENT = "errors", "latency", "slow answers", "agreement"


def rules(plan: ReleasePlan, *, beside: bool) -> tuple[Rule, ...]:
    """One a metric. Each has one margin: proven beyond it restores, proven within it may promote.

    ``beside``: whether an old version stands beside the new one. Without, the alarms' limits stand in for it.
    """
    terms = plan.judge
    if not beside:
        return (
            ShareRule(ERRORS, "above", 0.0, 0.0, limit=plan.max_error_rate),
            # That this quantile is above the limit and that more than the rest are slower are the same.
            ShareRule(SLOW, "above", 0.0, 0.0, limit=1 - terms.latency_quantile),
        )
    found: tuple[Rule, ...] = (
        ShareRule(ERRORS, "above", terms.error_margin, terms.error_margin),
        QuantileRule(LATENCY, terms.latency_quantile, terms.latency_ratio, terms.latency_ratio),
    )
    if plan.mode == "SHADOW":
        found = (*found, ShareRule(AGREEMENT, "below", 0.0, 0.0, limit=terms.min_agreement))
    return found


def judge_answers(
    plan: ReleasePlan, candidate: Answers, baseline: Answers | None, agreed: Counts | None = None
) -> Judgement:
    """The verdict on everything that both have answered since the candidate first had traffic.

    ``agreed``: how much of a shadow's answers was the same, of how many.
    """
    mine, base = _data(candidate, plan), _data(baseline, plan) if baseline else {}
    if plan.mode == "SHADOW":
        mine[AGREEMENT] = agreed or Counts()
    terms = plan.judge
    return judge(rules(plan, beside=baseline is not None), mine, base, alpha=terms.alpha, beta=terms.beta)


def _data(answers: Answers, plan: ReleasePlan) -> dict[str, Data]:
    histogram = _histogram(answers)
    within = bisect_right(answers.bounds, plan.max_latency_ms)
    fast = answers.at_or_below[within - 1] if within else 0.0
    return {
        ERRORS: Counts(answers.errors, answers.requests),
        LATENCY: histogram,
        SLOW: Counts(max(0.0, answers.timed - fast), answers.timed),
    }


def _histogram(answers: Answers) -> Histogram:
    return Histogram(np.asarray(answers.bounds, float), np.asarray(answers.at_or_below, float), answers.timed)


def quantile_ms(answers: Answers, quantile: float) -> float | None:
    """The quantile of the latency, milliseconds, to the next bound; none without data, or above every bound."""
    return _known(QuantileRule(LATENCY, quantile, 1.0, 2.0).observed(_histogram(answers)))


def findings(judgement: Judgement) -> tuple[Finding, ...]:
    """The judgement's findings as they are kept and shown."""
    return tuple(
        Finding(
            metric=finding.metric,
            candidate=_known(finding.candidate),
            baseline=_known(finding.baseline),
            requests=finding.requests,
            baseline_requests=finding.baseline_requests,
            restore=finding.restore,
            promote=finding.promote,
            expected_requests=finding.expected_requests,
        )
        for finding in judgement.findings
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
