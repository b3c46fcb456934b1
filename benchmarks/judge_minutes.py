"""Releases as the judge meets them, minute by minute: rates that drift, shares of the traffic that change.

``drifting`` simulates errors alone, many releases at once, and counts how often the evidence from ``matched`` minutes
crosses its bound; ``pooled`` is what comparing plain totals would have done. ``released`` runs the judge with the rules
of a plan on counts and latencies of both versions, looked at once a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.adapters.sagemaker_metrics import bounds
from tasks.contracts import Answers
from tasks.plans import ReleasePlan
from tasks.serving.canary import Verdict
from tasks.serving.evidence import Floats, Side, matched, two_share_evidence
from tasks.verdicts import judge_answers

PER_MINUTE = 60  # requests to both versions together
SIGMA = 0.3
MEDIAN_MS = 100.0


@dataclass(frozen=True)
class Minutes:
    """One course of a release: the new version's share of the traffic and the old version's error rate, a minute
    each; the new one's rate is ``worse`` points higher.
    """

    name: str
    shares: Floats
    rates: Floats
    verdict: str
    worse: float = 0.0
    ratio: float = 1.0


def courses(margin: float) -> tuple[Minutes, ...]:
    """Rates that change while shares do. A wrong verdict in each of them."""
    weights = np.repeat([0.25, 0.5, 0.75], 30)
    canary = np.repeat([0.5, 1.0], [30, 120])
    return (
        Minutes("weights, 1, 1, 12 % errors", weights, np.repeat([0.01, 0.01, 0.12], 30), "restore"),
        Minutes("weights, 12, 1, 1 % errors", weights, np.repeat([0.12, 0.01, 0.01], 30), "restore"),
        Minutes("canary, 0.5 %, then 5 % errors", canary, np.repeat([0.005, 0.05], [30, 120]), "restore"),
        Minutes("canary 10 %, 1 % and 10 % by turns", np.full(150, 0.1), np.tile([0.01, 0.1], 75), "restore", ratio=9),
        Minutes("half, outages of 3 in 20 minutes", np.full(160, 0.5), np.tile([0.0] * 17 + [1.0] * 3, 8), "restore"),
        Minutes("canary, +2 points, 4 %, then 0 %", canary, np.repeat([0.04, 0.0], [30, 120]), "promote", margin),
        Minutes("weights, +2 points, 12, 4, 0 %", weights, np.repeat([0.12, 0.04, 0.0], 30), "promote", margin),
    )


def drifting(course: Minutes, margin: float, need: float, runs: int, *, pooled: bool) -> Floats:
    """The candidate's requests at the verdict; infinite where none fell. ``pooled``: by plain totals."""
    random = np.random.default_rng(0)
    totals = [np.zeros(runs) for _ in range(4)]
    asked, stops = np.zeros(runs), np.full(runs, np.inf)
    limit, side = (0.0, "above") if course.verdict == "restore" else (margin, "below")
    where: Side = "above" if side == "above" else "below"
    for share, rate in zip(course.shares, course.rates, strict=True):
        every = random.poisson(PER_MINUTE, runs)
        n = random.binomial(every, share)
        m = every - n
        s, t = random.binomial(n, min(1.0, rate + course.worse)), random.binomial(m, rate)
        mine, base = (np.ones(runs), np.ones(runs)) if pooled else matched(n, m, course.ratio)
        for total, counts in zip(totals, (mine * s, mine * n, base * t, base * m), strict=True):
            total += counts
        asked += n
        waiting = np.flatnonzero(np.isinf(stops))
        evidence = two_share_evidence(*(total[waiting] for total in totals), limit, where)
        stops[waiting[evidence >= need]] = asked[waiting[evidence >= need]]
    return stops


@dataclass(frozen=True)
class Release:
    """Both versions' rates. ``verdict``: the one that is counted."""

    name: str
    verdict: Verdict
    errors: tuple[float, float] = (0.01, 0.01)  # old, new
    slower: float = 1.0
    client_errors: tuple[float, float] = (0.0, 0.0)
    drift: tuple[float, float] = (1.0, 1.0)  # in the second half: times the errors, times the latency of both
    wrong: bool = False  # the verdict is bounded, not hoped for


def released(release: Release, plan: ReleasePlan, runs: int, minutes: int) -> Floats:
    """The candidate's requests at the verdict that is asked for; infinite where there was none, or another one first
    that ends the release. A wrong one is waited for beyond every right one.
    """
    return np.array([_released(release, plan, seed, minutes) for seed in range(runs)])


def _released(release: Release, plan: ReleasePlan, seed: int, minutes: int) -> float:
    random = np.random.default_rng(seed)
    mine: list[Answers] = []
    base: list[Answers] = []
    limits = bounds(plan.max_latency_ms, *_near(plan, release))
    for minute in range(minutes):
        times, slow = release.drift if minute >= minutes / 2 else (1.0, 1.0)
        new = random.binomial(PER_MINUTE, 0.5)
        for side, count, which, slower in ((mine, new, 1, release.slower), (base, PER_MINUTE - new, 0, 1.0)):
            errors, refused = release.errors[which] * times, release.client_errors[which]
            side.append(_minute(random, count, errors, refused, slower * slow, limits))
        said = judge_answers(plan, Answers(minutes=tuple(mine)), Answers(minutes=tuple(base))).verdict
        if said is release.verdict:
            return float(sum(one.requests for one in mine))
        if said is not Verdict.WAIT and not release.wrong:
            return np.inf
    return np.inf


def _near(plan: ReleasePlan, release: Release) -> tuple[float, ...]:
    """Where a release has its bounds close together: around the old version's quantile, and the ratio times that."""
    usual = MEDIAN_MS * float(np.exp(SIGMA * 1.2816))
    return usual, usual * plan.judge.latency_ratio, usual * release.drift[1]


def _minute(
    random: np.random.Generator,
    requests: int,
    errors: float,
    client_errors: float,
    slower: float,
    limits: tuple[float, ...],
) -> Answers:
    values = np.sort(MEDIAN_MS * slower * random.lognormal(0, SIGMA, requests))
    return Answers(
        requests=requests,
        errors=int(random.binomial(requests, errors)),
        client_errors=int(random.binomial(requests, client_errors)),
        bounds=limits,
        at_or_below=tuple(map(float, np.searchsorted(values, limits, side="right"))),
        timed=requests,
    )


RELEASES = (
    Release("rules of a plan: alike", Verdict.RESTORE, wrong=True),
    Release("alike, then 5 % and 3 times slower", Verdict.RESTORE, drift=(5.0, 3.0), wrong=True),
    Release("errors 1 % and 3 %", Verdict.PROMOTE, errors=(0.01, 0.03), wrong=True),
    Release("latency 1.5 times", Verdict.PROMOTE, slower=1.5, wrong=True),
    Release("latency 1.5 times, both then 3 times", Verdict.PROMOTE, slower=1.5, drift=(1.0, 3.0), wrong=True),
    Release("rules of a plan: alike", Verdict.PROMOTE),
    Release("errors 1 % and 5 %", Verdict.RESTORE, errors=(0.01, 0.05)),
    Release("4xx 0 % and 5 %", Verdict.RESTORE, client_errors=(0.0, 0.05)),
    Release("latency 1.2 times", Verdict.PROMOTE, slower=1.2),
    Release("latency 1.5 times", Verdict.RESTORE, slower=1.5),
)
