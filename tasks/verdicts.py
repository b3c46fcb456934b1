"""A release plan's rules, and the judge's verdict on what both versions have answered."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from tasks.contracts import Answers, Finding
from tasks.plans import ReleasePlan
from tasks.serving.evidence import Floats, Histogram, matched
from tasks.serving.judge import Counts, Data, Judgement, QuantileRule, Rule, ShareRule, judge

ERRORS, CLIENT_ERRORS, LATENCY = "errors", "4xx", "latency"
LEAST_BEFORE = 100  # requests that make the old version's share of invalid ones worth comparing with
SLOW, AGREEMENT = "slow answers", "agreement"


def rules(plan: ReleasePlan, *, beside: bool, usual: Counts | None = None) -> tuple[Rule, ...]:
    """One a metric. Proven worse by more than the harmless part of its margin restores, proven within it may promote.

    ``beside``: whether an old version stands beside the new one. Without, the alarms' limits stand in for it.
    ``usual``: without, how many requests of how many the old version has called invalid before.
    """
    terms = plan.judge
    if not beside:
        found: tuple[Rule, ...] = (
            ShareRule(ERRORS, "above", 0.0, 0.0, limit=plan.max_error_rate),
            # That this quantile is above the limit and that more than the rest are slower are the same.
            ShareRule(SLOW, "above", 0.0, 0.0, limit=1 - terms.latency_quantile),
        )
        if usual is not None and usual.trials >= LEAST_BEFORE:
            limit = min(0.99, usual.share + terms.error_margin)
            found = (*found, ShareRule(CLIENT_ERRORS, "above", 0.0, 0.0, limit=limit))
        return found
    points = terms.harmless_points
    found = (
        ShareRule(ERRORS, "above", points, terms.error_margin),
        QuantileRule(LATENCY, terms.latency_quantile, terms.harmless_ratio, terms.latency_ratio),
        # Both have the same clients: a difference is the version's, such as prompts that it wrongly calls invalid.
        ShareRule(CLIENT_ERRORS, "above", points, terms.error_margin),
    )
    if plan.mode == "SHADOW":
        found = (*found, ShareRule(AGREEMENT, "below", 0.0, 0.0, limit=terms.min_agreement))
    return found


def judge_answers(
    plan: ReleasePlan,
    candidate: Answers,
    baseline: Answers | None,
    agreed: Counts | None = None,
    usual: Counts | None = None,
) -> Judgement:
    """The verdict on everything that both have answered since the candidate first had traffic.

    Beside each other they are compared minute by minute, both weighted alike: what one answered alone is not compared.
    ``agreed``: how much of a shadow's answers was the same, of how many. ``usual``: see ``rules``.
    """
    if baseline is None:
        mine, base = _data([candidate], plan), {}
    elif candidate.minutes is None or baseline.minutes is None:
        mine, base = _data([candidate], plan), _data([baseline], plan)
    else:
        mine, base = _matched(candidate.minutes, baseline.minutes, plan)
    if plan.mode == "SHADOW":
        mine[AGREEMENT] = agreed or Counts()
    terms = plan.judge
    return judge(rules(plan, beside=baseline is not None, usual=usual), mine, base, alpha=terms.alpha, beta=terms.beta)


def baseline_ratio(plan: ReleasePlan) -> float:
    """The old version's requests to one of the new one's in which they are compared: as the traffic is split, where the
    plan says so.
    """
    fixed = plan.mode in ("CANARY", "AB_TEST")
    return (100 - plan.step_percent) / plan.step_percent if fixed else 1.0


def _matched(
    candidate: Sequence[Answers], baseline: Sequence[Answers], plan: ReleasePlan
) -> tuple[dict[str, Data], dict[str, Data]]:
    """Both sides' data, in every minute at the same weight relative to each other."""
    ratio = baseline_ratio(plan)
    requests = matched([one.requests for one in candidate], [one.requests for one in baseline], ratio)
    timed = matched([one.timed for one in candidate], [one.timed for one in baseline], ratio)
    mine, base = (_data(*args) for args in zip((candidate, baseline), (plan, plan), requests, timed, strict=True))
    return mine, base


def _data(
    minutes: Sequence[Answers], plan: ReleasePlan, weights: Floats | None = None, timed_weights: Floats | None = None
) -> dict[str, Data]:
    """Sums over minutes of the same bounds, each at its weight; 1 where there are none."""
    if not minutes:
        return {}
    ones = np.ones(len(minutes))
    each, timed = ones if weights is None else weights, ones if timed_weights is None else timed_weights

    def total(values: Sequence[float], by: Floats = each) -> float:
        return float(by @ np.asarray(values, float))

    requests, answered = total([one.requests for one in minutes]), total([one.timed for one in minutes], timed)
    bounds = minutes[0].bounds
    counts = np.asarray(timed @ np.asarray([one.at_or_below for one in minutes], float))
    within = bisect_right(bounds, plan.max_latency_ms)
    fast = float(counts[within - 1]) if within else 0.0
    return {
        ERRORS: Counts(total([one.errors for one in minutes]), requests),
        CLIENT_ERRORS: Counts(total([one.client_errors for one in minutes]), requests),
        LATENCY: Histogram(np.asarray(bounds, float), counts, answered),
        SLOW: Counts(max(0.0, answered - fast), answered),
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
