"""Promote, restore or wait: what a release does next, from what both versions have answered so far.

Every rule compares the candidate with the baseline (or with a fixed limit) on one metric and has two bounds. Beyond
``harmless`` the candidate is worse, and enough evidence for that restores; within ``tolerated`` it is good enough, and
enough evidence for that, on every metric, promotes. Between the two either may happen. Evidence is anytime-valid
(``evidence.py``): looking after every request is allowed, and

- a candidate that is nowhere worse than ``harmless`` is restored with probability at most ``alpha``: it is split over
  the rules by their weights (Bonferroni);
- a candidate that is beyond ``tolerated`` on any one metric is promoted with probability at most ``beta``: every rule
  must have passed (an intersection-union test, Berger: Technometrics 24(4), 1982), so nothing is split.

No data is no evidence, and no evidence waits. Rates may drift and shares of the traffic change while both answer, if
the data are sums over ``matched`` minutes: "worse by" is then the difference of the means over those minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.serving.canary import Verdict
from tasks.serving.evidence import (
    Floats,
    Histogram,
    Side,
    binned_quantile_evidence,
    quantile_evidence,
    share_evidence,
    two_share_evidence,
)


@dataclass(frozen=True)
class Counts:
    """Zeros and ones: errors among requests, same answers among pairs. A trial may also be a part of one, such as the
    share of two answers that agrees: the evidence holds for every value between 0 and 1, by convexity. Both are sums of
    weights where minutes are ``matched``.
    """

    ones: float = 0
    trials: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ones <= self.trials + 1e-9 * self.trials:
            raise ValueError(f"{self.ones} of {self.trials}: ones lie between 0 and trials")

    @property
    def share(self) -> float:
        return self.ones / self.trials if self.trials else math.nan


@dataclass(frozen=True)
class Values:
    """Measured values, in any order."""

    values: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def trials(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class ShareRule:
    """A share, such as the error rate, against the baseline's; or against ``limit`` where there is no baseline.

    Attributes:
        metric: its name.
        worse: whether a higher or a lower share is worse.
        harmless: worse than the baseline by at most this: not a reason to restore. In share points, 0–1.
        tolerated: worse by less than this: good enough to promote. At least ``harmless``, and above 0 unless there is a
            limit.
        limit: stands in for the baseline's share (agreement of answers has no baseline), or none.
        weight: part of ``alpha`` that goes to this rule, relative to the others.
        must_have: without data the release waits; otherwise the rule then has no say.
    """

    metric: str
    worse: Side
    harmless: float
    tolerated: float
    limit: float | None = None
    weight: float = 1.0
    must_have: bool = True

    def __post_init__(self) -> None:
        least = self.tolerated > 0 or self.limit is not None
        _check(self.metric, 0 <= self.harmless <= self.tolerated <= 1 and least, self.weight)

    def observed(self, data: Counts) -> float:
        return data.share

    def evidence(self, candidate: Counts, baseline: Counts | None) -> tuple[float, float]:
        """Log evidence for worse than ``harmless``, and for better than ``tolerated``."""
        sign = 1.0 if self.worse == "above" else -1.0
        better: Side = "below" if self.worse == "above" else "above"
        bounds = ((sign * self.harmless, self.worse), (sign * self.tolerated, better))
        if self.limit is not None:
            bad, good = (
                float(share_evidence(candidate.ones, candidate.trials, np.clip(self.limit + margin, 0, 1), side))
                for margin, side in bounds
            )
        else:
            base = baseline or Counts()
            bad, good = (
                float(two_share_evidence(candidate.ones, candidate.trials, base.ones, base.trials, margin, side))
                for margin, side in bounds
            )
        return bad, good


@dataclass(frozen=True)
class QuantileRule:
    """A quantile, such as the 90th percentile of latency, against the baseline's. Higher is worse.

    Attributes:
        metric: its name.
        quantile: 0.5 for the median.
        harmless: at most this many times the baseline's: not a reason to restore. At least 1.
        tolerated: less than this many times: good enough to promote. At least ``harmless``, above 1.
        weight, must_have: as in ``ShareRule``.
    """

    metric: str
    quantile: float
    harmless: float
    tolerated: float
    weight: float = 1.0
    must_have: bool = True

    def __post_init__(self) -> None:
        _check(self.metric, 1 <= self.harmless <= self.tolerated and self.tolerated > 1, self.weight)
        _check(self.metric, 0 < self.quantile < 1, self.weight)

    def observed(self, data: Values | Histogram) -> float:
        """The quantile; of a histogram the first bound that it does not exceed."""
        if not data.trials:
            return math.nan
        if isinstance(data, Values):
            return float(np.quantile(data.values, self.quantile))
        at = int(np.searchsorted(data.at_or_below, self.quantile * data.trials))
        return float(data.bounds[at]) if at < len(data.bounds) else math.inf

    def evidence(self, candidate: Values | Histogram, baseline: Values | Histogram | None) -> tuple[float, float]:
        """Log evidence for worse than ``harmless``, and for better than ``tolerated``."""
        if isinstance(candidate, Histogram):
            if not isinstance(baseline, Histogram):
                return 0.0, 0.0
            bad = binned_quantile_evidence(candidate, baseline, self.quantile, self.harmless, "above")
            return bad, binned_quantile_evidence(candidate, baseline, self.quantile, self.tolerated, "below")
        base = baseline or Values()
        if not isinstance(base, Values):
            raise TypeError(f"{self.metric}: values cannot be compared with a histogram")
        bad = quantile_evidence(candidate.values, base.values, self.quantile, self.harmless, "above")
        good = quantile_evidence(candidate.values, base.values, self.quantile, self.tolerated, "below")
        return bad, good


def _check(metric: str, bounds: bool, weight: float) -> None:
    if not bounds or weight <= 0:
        raise ValueError(f"{metric}: bounds must have harmless at most tolerated, and the weight must be above 0")


Rule = ShareRule | QuantileRule
Data = Counts | Values | Histogram


@dataclass(frozen=True)
class Finding:
    """One rule on the data so far.

    Attributes:
        metric: the rule's.
        candidate, baseline: what was observed; NaN without data, and the limit where the rule has one.
        requests, baseline_requests: the candidate's and the baseline's.
        restore: evidence for restoring as a share of what is needed, 0–1; 1 restores.
        promote: the same for promoting.
        expected_requests: about so many more until this rule decides, at the present rate; none when nothing is
            growing.
    """

    metric: str
    candidate: float
    baseline: float
    requests: int
    restore: float
    promote: float
    expected_requests: int | None
    baseline_requests: int = 0


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on. ``reason`` is a sentence for people."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]


def judge(
    rules: Sequence[Rule],
    candidate: Mapping[str, Data],
    baseline: Mapping[str, Data],
    *,
    alpha: float = 0.05,
    beta: float = 0.05,
) -> Judgement:
    """The verdict on everything seen since traffic first reached the candidate.

    Args:
        rules: at least one; fixed before the release, not chosen by looking.
        candidate: data by metric; a metric without data may be absent.
        baseline: the same of the version that serves beside it, over the same time.
        alpha: chance of restoring a candidate that is not worse, at most.
        beta: chance of promoting one that is not good enough, at most.
    """
    if not rules:
        raise ValueError("a judge needs at least one rule")
    whole = sum(rule.weight for rule in rules)
    findings = []
    for rule in rules:
        need_bad, need_good = math.log(whole / (alpha * rule.weight)), math.log(1 / beta)
        findings.append(_finding(rule, candidate.get(rule.metric), baseline.get(rule.metric), need_bad, need_good))
    bad = [finding for finding in findings if finding.restore >= 1]
    if bad:
        worst = bad[0]
        return Judgement(
            Verdict.RESTORE,
            f"{worst.metric} is worse: {worst.candidate:.4g} against {worst.baseline:.4g}, "
            f"after {worst.requests} requests",
            tuple(findings),
        )
    asked = [finding for rule, finding in zip(rules, findings, strict=True) if rule.must_have or finding.requests]
    open_ = [finding for finding in asked if finding.promote < 1]
    if asked and not open_:
        return Judgement(Verdict.PROMOTE, "every metric is within what is tolerated", tuple(findings))
    waits = ", ".join(f"{finding.metric} ({finding.promote:.0%} of the evidence)" for finding in open_)
    return Judgement(Verdict.WAIT, f"not yet enough evidence: {waits or 'no data'}", tuple(findings))


def _finding(rule: Rule, candidate: Data | None, baseline: Data | None, need_bad: float, need_good: float) -> Finding:
    kinds = (Counts,) if isinstance(rule, ShareRule) else (Values, Histogram)
    mine = kinds[0]() if candidate is None else candidate
    if not isinstance(mine, kinds) or not isinstance(baseline, (*kinds, type(None))):
        raise TypeError(f"{rule.metric} is judged by {' or '.join(kind.__name__ for kind in kinds)}")
    bad, good = rule.evidence(mine, baseline) if mine.trials else (0.0, 0.0)  # type: ignore[arg-type]
    limit = getattr(rule, "limit", None)
    return Finding(
        metric=rule.metric,
        candidate=rule.observed(mine),  # type: ignore[arg-type]
        baseline=limit if limit is not None else rule.observed(baseline or kinds[0]()),  # type: ignore[arg-type]
        requests=round(mine.trials),
        restore=min(1.0, max(0.0, bad / need_bad)),
        promote=min(1.0, max(0.0, good / need_good)),
        expected_requests=_expected(mine.trials, bad / need_bad, good / need_good),
        baseline_requests=0 if limit is not None or baseline is None else round(baseline.trials),
    )


def _expected(requests: float, *shares: float) -> int | None:
    """Evidence grows about in proportion to requests while the difference stays as it is."""
    most = max(shares)
    if most >= 1:
        return 0
    return math.ceil(requests * (1 / most - 1)) if most > 0 else None
