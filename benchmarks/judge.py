"""How often the judge is wrong, and how many requests it takes: ``python -m benchmarks.judge``.

Simulated releases, looked at after every pair of requests (one to the candidate, one to the baseline). Errors are
Bernoulli; latencies are log-normal (sigma 0.3: the 90th percentile is 1.47 medians). Compared with

- the fixed-sample optimum: requests a version that the most powerful test needs when it looks once, at the same
  alpha, to find the change with probability 0.9 (two shares: Fleiss, Statistical Methods for Rates and Proportions,
  section 4.2;
  latency: the z-test on log values with known sigma);
- a Mann-Whitney test on the same values, p below alpha, looked at as often: what many canary analyses do.

Latency is also judged from histograms with the bounds that a release asks CloudWatch for ("histogram").

Then minute by minute (``judge_minutes.py``): courses of errors that drift while shares of the traffic change, judged by
"matched" minutes as releases are and by "pooled" totals for comparison, which is no judge of ours; and whole releases
under the rules of a default plan ("plan"), half of the traffic each.

``rate`` is the share of releases in which the verdict fell within the horizon; ``median`` and ``p90`` are requests a
version at that time, over all releases (a release without a verdict counts as the horizon).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import mannwhitneyu, norm

from benchmarks.judge_minutes import PER_MINUTE, RELEASES, courses, drifting, released
from tasks.adapters.sagemaker_metrics import bounds
from tasks.plans import ReleasePlan
from tasks.serving.canary import Verdict
from tasks.serving.evidence import (
    Floats,
    Histogram,
    binned_quantile_evidence,
    quantile_evidence,
    two_share_evidence,
)

SIGMA = 0.3
TOLERATED_ERRORS, TOLERATED_LATENCY = 0.02, 1.2
POWER = 0.9


@dataclass(frozen=True)
class Figure:
    """One scenario under one judge. ``allowed`` is the promised bound on ``rate`` where the verdict is wrong."""

    scenario: str
    judge: str
    verdict: str
    rate: float
    allowed: float | None
    median: float
    p90: float
    fixed_sample: int | None
    releases: int
    horizon: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate releases and count wrong and late verdicts.")
    parser.add_argument("--releases", type=int, default=1000, help="simulated releases of a scenario of errors")
    parser.add_argument("--latency-releases", type=int, default=200, help="the same for latency, which takes longer")
    parser.add_argument("--horizon", type=int, default=3000, help="requests a version, errors")
    parser.add_argument("--latency-horizon", type=int, default=600, help="requests a version, latency")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of a wrong verdict that is allowed")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="few and short releases, under a minute")
    parser.add_argument("--part", choices=["all", "requests", "minutes"], default="all", help="which scenarios")
    options = parser.parse_args()
    if options.quick:
        options.releases, options.horizon = 100, 500
        options.latency_releases, options.latency_horizon = 20, 150
    if not options.json:
        print(f"{'scenario':38}{'judge':15}{'verdict':10}{'rate':>7}{'allowed':>9}{'median':>8}{'p90':>7}{'fixed':>7}")
    for figure in measure(options):
        if options.json:
            print(json.dumps(asdict(figure)), flush=True)
            continue
        allowed = "" if figure.allowed is None else f"{figure.allowed:.2f}"
        fixed = "" if figure.fixed_sample is None else str(figure.fixed_sample)
        counts = f"{figure.median:8.0f}{figure.p90:7.0f}{fixed:>7}"
        head = f"{figure.scenario:38}{figure.judge:15}{figure.verdict:10}"
        print(f"{head}{figure.rate:7.3f}{allowed:>9}{counts}", flush=True)


def measure(options: argparse.Namespace) -> Iterator[Figure]:
    need = float(np.log(1 / options.alpha))
    if options.part != "minutes":
        yield from _by_requests(options, need)
    if options.part != "requests":
        yield from _by_minutes(options, need)


def _by_requests(options: argparse.Namespace, need: float) -> Iterator[Figure]:
    """One rule at a time, against no difference at all, looked at after every request."""
    alpha = options.alpha
    runs, horizon = options.releases, options.horizon
    for name, base, new, verdict, wrong in (
        ("errors 1 % and 1 %", 0.01, 0.01, "restore", True),
        ("errors 0 % and 0 %", 0.0, 0.0, "promote", False),
        ("errors 1 % and 1 %", 0.01, 0.01, "promote", False),
        ("errors 1 % and 3 %, not tolerated", 0.01, 0.01 + TOLERATED_ERRORS, "promote", True),
        ("errors 1 % and 5 %", 0.01, 0.05, "restore", False),
    ):
        stops = _share_stops(base, new, verdict, need, runs, horizon)
        right = verdict == "restore" and not wrong
        fixed = _fixed_shares(base, new, alpha) if right else None
        yield _figure(name, "ours", verdict, stops, alpha if wrong else None, fixed, horizon)
    runs, horizon = options.latency_releases, options.latency_horizon
    tests: tuple[tuple[str, Callable[[Floats, Floats], bool]], ...] = (
        ("ours, p50", lambda mine, base: quantile_evidence(mine, base, 0.5, 1.0, "above") >= need),
        ("ours, p90", lambda mine, base: quantile_evidence(mine, base, 0.9, 1.0, "above") >= need),
        ("histogram, p90", lambda mine, base: _binned(mine, base, 0.9, 1.0) >= need),
        ("Mann-Whitney", lambda mine, base: bool(mannwhitneyu(mine, base, alternative="greater").pvalue < alpha)),
    )
    for name, rise in (("latency the same", 1.0), ("latency 20 % higher", 1.2)):
        fixed = _fixed_latency(rise, alpha) if rise > 1 else None
        for label, decides in tests:
            stops = _latency_stops(rise, decides, runs, horizon)
            yield _figure(name, label, "restore", stops, alpha if rise == 1 else None, fixed, horizon)
    promotes = _latency_stops(
        TOLERATED_LATENCY,
        lambda mine, base: quantile_evidence(mine, base, 0.5, TOLERATED_LATENCY, "below") >= need,
        runs,
        horizon,
    )
    yield _figure("latency 20 % higher, not tolerated", "ours, p50", "promote", promotes, alpha, None, horizon)


def _by_minutes(options: argparse.Namespace, need: float) -> Iterator[Figure]:
    """Drift and changing shares, then the rules of a plan all at once."""
    for course in courses(TOLERATED_ERRORS):
        for pooled in (True, False):
            label, minutes = "pooled" if pooled else "matched", len(course.shares)
            stops = drifting(course, TOLERATED_ERRORS, need, options.releases, pooled=pooled)
            allowed = None if pooled else options.alpha
            yield _figure(course.name, label, course.verdict, stops, allowed, None, minutes * PER_MINUTE)
    plan, minutes = ReleasePlan(), max(10, 2 * options.horizon // PER_MINUTE)
    for release in RELEASES:
        stops, verdict = released(release, plan, options.latency_releases, minutes), release.verdict
        terms = {Verdict.RESTORE: plan.judge.alpha, Verdict.PROMOTE: plan.judge.beta}
        name, allowed = verdict.value.removesuffix("d"), terms[verdict] if release.wrong else None
        yield _figure(release.name, "plan", name, stops, allowed, None, minutes * PER_MINUTE // 2)


def _binned(mine: Floats, base: Floats, quantile: float, ratio: float) -> float:
    """The evidence for slower, from the histograms of a release (its values in milliseconds, around 100)."""
    near = float(np.quantile(base, quantile)) * 100
    first, second = (
        Histogram(limits, np.searchsorted(np.sort(100 * values), limits, side="right").astype(float), len(values))
        for values, limits in (
            (mine, np.asarray(bounds(30_000, near, near * ratio))),
            (base, np.asarray(bounds(30_000, near))),
        )
    )
    return binned_quantile_evidence(first, second, quantile, ratio, "above")


def _share_stops(base: float, new: float, verdict: str, need: float, runs: int, horizon: int) -> Floats:
    """Requests a version at the verdict; infinite where none fell. All releases at once, a request at a time."""
    random = np.random.default_rng(0)
    mine, other = np.zeros(runs), np.zeros(runs)
    stops = np.full(runs, np.inf)
    for number in range(1, horizon + 1):
        mine += random.random(runs) < new
        other += random.random(runs) < base
        waiting = np.flatnonzero(np.isinf(stops))
        # Nothing has changed for those without an error in this step but the count: still, every look counts.
        margin, side = (0.0, "above") if verdict == "restore" else (TOLERATED_ERRORS, "below")
        evidence = two_share_evidence(
            mine[waiting],
            np.full(len(waiting), number),
            other[waiting],
            np.full(len(waiting), number),
            margin,
            "above" if side == "above" else "below",
        )
        stops[waiting[evidence >= need]] = number
        if np.isfinite(stops).all():
            break
    return stops


def _latency_stops(rise: float, decides: Callable[[Floats, Floats], bool], runs: int, horizon: int) -> Floats:
    random = np.random.default_rng(0)
    stops = np.full(runs, np.inf)
    for run in range(runs):
        mine, base = rise * random.lognormal(0, SIGMA, horizon), random.lognormal(0, SIGMA, horizon)
        for number in range(1, horizon + 1):
            if decides(mine[:number], base[:number]):
                stops[run] = number
                break
    return stops


def _figure(
    name: str, label: str, verdict: str, stops: Floats, allowed: float | None, fixed: int | None, horizon: int
) -> Figure:
    ended = np.minimum(stops, horizon)
    rate = float(np.isfinite(stops).mean())
    median, p90 = (float(np.quantile(ended, share)) for share in (0.5, 0.9))
    return Figure(name, label, verdict, rate, allowed, median, p90, fixed, len(stops), horizon)


def _fixed_shares(base: float, new: float, alpha: float) -> int:
    mean = (base + new) / 2
    spread = norm.isf(alpha) * np.sqrt(2 * mean * (1 - mean))
    spread += norm.isf(1 - POWER) * np.sqrt(base * (1 - base) + new * (1 - new))
    return int(np.ceil((spread / (new - base)) ** 2))


def _fixed_latency(rise: float, alpha: float) -> int:
    return int(np.ceil(2 * ((norm.isf(alpha) + norm.isf(1 - POWER)) * SIGMA / np.log(rise)) ** 2))


if __name__ == "__main__":
    main()
