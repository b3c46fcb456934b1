"""How often the gate is wrong, and how many items it takes: ``python -m benchmarks.gate``.

Simulated evaluations. An item is a block of held-out text with its own mean loss of quality; candidates differ in the
true mean over all texts. Three kinds of per-block differences in log likelihood, of the same spread: normal (16 real
blocks of SmolLM2-135M in 4 bits have a standard deviation of 0.05 and a skewness of -0.2); skewed (a gamma distribution
of shape 1: most blocks lose little, a few lose much); and heavy-tailed (log-normal, sigma 1). Agreement is
beta-binomial: blocks differ in how easily their tokens are agreed on (intraclass correlation 0.02, 255 tokens a block).
Documents and prompts are right or wrong as a whole; a candidate loses some, and wins some or none.

``pass`` counts how often a candidate passes the gate. At the limit itself, that is the chance that one which is not
good enough gets through, promised to be at most 1 − confidence; ``allowed`` says so. Methods:

- ``ours``: what the gate does (``tasks/compression/paired.py``, ``paired_share.py``);
- ``figure``: the figure alone held against the limit, as most evaluation scripts do;
- ``percentile``, ``BCa``: scipy.stats.bootstrap's intervals over the same items;
- ``mean``: the gate's interval for a mean of any numbers, of items that are right or wrong;
- ``tokens``: an exact binomial interval that takes every token for independent.

``coverage`` is the share of evaluations whose one-sided 95 % upper end is above the truth. The
``power`` row: of candidates that are worse by half the margin, the share that passes with the number of items that a
pilot of 16 said was needed for 0.8; its items are the median of what pilots said.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, bootstrap

from tasks.compression.paired import ClusteredShare, PairedMean, needed_items
from tasks.compression.paired_share import PairedShare, drop
from tasks.contracts import GateCheck
from tasks.gate_checks import Held, decide

CONFIDENCE = 0.95
MARGIN = 0.10  # in log perplexity: a ratio of 1.105
SPREAD = 0.08  # between blocks, of the difference in mean log likelihood
TOKENS, LIMIT, CORRELATION = 255, 0.70, 0.02
DOCUMENTS = ((8, 0.10), (32, 0.10), (100, 0.03), (400, 0.02))  # items, and the share of them that may be lost
RESAMPLES = 1000
CONTEXTS = ((20, 10, 0.05), (100, 5, 0.05))  # contexts, questions on each, and the share that may be lost

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One kind of candidate under one method. ``allowed``: what ``rate`` is aimed at where a pass is wrong."""

    metric: str
    items: int
    candidate: str
    method: str
    what: str
    rate: float
    allowed: float | None
    evaluations: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate evaluations and count wrong verdicts.")
    parser.add_argument("--evaluations", type=int, default=1000, help="simulated evaluations a row")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="few evaluations, well under a minute")
    options = parser.parse_args()
    evaluations = 100 if options.quick else options.evaluations
    if not options.json:
        print(f"{'metric':34}{'items':>6} {'candidate':30}{'method':12}{'what':10}{'rate':>7}{'allowed':>9}")
    for figure in measure(evaluations):
        if options.json:
            # "free": no promise is made about this rate.
            print(json.dumps(asdict(figure) | {"allowed": "free" if figure.allowed is None else figure.allowed}))
            continue
        allowed = "" if figure.allowed is None else f"{figure.allowed:.3f}"
        head = f"{figure.metric:34}{figure.items:6} {figure.candidate:30}{figure.method:12}{figure.what:10}"
        print(f"{head}{figure.rate:7.3f}{allowed:>9}", flush=True)


def measure(evaluations: int) -> Iterator[Figure]:
    for kind in NOISE:
        for items in (8, 16, 64):
            yield from _differences(kind, items, evaluations)
    for items in (16, 64):
        yield from _agreement(items, evaluations)
    for items, limit in DOCUMENTS:
        yield from _documents(items, limit, evaluations)
    for contexts, each, limit in CONTEXTS:
        yield from _contexts(contexts, each, limit, evaluations)
    yield from _family(16, evaluations)
    yield from _power(evaluations)


def _normal(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return random.standard_normal(shape)


def _skewed(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return random.gamma(1.0, 1.0, shape) - 1


def _heavy(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    drawn = random.lognormal(0.0, 1.0, shape)
    mean = np.exp(0.5)
    return np.asarray((drawn - mean) / np.sqrt(np.expm1(1.0) * np.e))


#: Mean 0 and standard deviation 1, all three.
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": _normal,
    "skewed": _skewed,
    "heavy-tailed": _heavy,
}


def _blocks(kind: str, truth: float, items: int, evaluations: int, seed: int) -> Floats:
    """Differences in mean log likelihood, candidate worse where positive: (evaluations, items)."""
    noise = NOISE[kind](np.random.default_rng(seed), (evaluations, items))
    return np.asarray(truth + SPREAD * noise)


def _differences(kind: str, items: int, evaluations: int) -> Iterator[Figure]:
    metric = f"perplexity, {kind} blocks"
    for truth, candidate in (
        (0.0, "as good as the original"),
        (MARGIN, "at the limit, not good"),
        (1.5 * MARGIN, "beyond"),
    ):
        drawn = _blocks(kind, truth, items, evaluations, seed=items)
        ends = {"ours": np.asarray([PairedMean(row, resamples=RESAMPLES).upper(CONFIDENCE) for row in drawn])}
        ends["figure"] = drawn.mean(axis=1)
        ends |= {name: _library(drawn, name) for name in ("percentile", "BCa")}
        for method, upper in ends.items():
            wrong = 1 - CONFIDENCE if truth >= MARGIN and method == "ours" else None
            yield Figure(metric, items, candidate, method, "pass", _share(upper <= MARGIN), wrong, evaluations)
            if truth == 0.0 and method != "figure":
                yield Figure(metric, items, candidate, method, "coverage", _share(upper >= truth), None, evaluations)


def _library(drawn: Floats, method: str) -> Floats:
    """Upper ends by scipy.stats.bootstrap."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa is not defined for a resample of equal items
        found = [
            bootstrap(
                (row,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, alternative="less", method=method,
                vectorized=True, rng=0,
            ).confidence_interval.high
            for row in drawn
        ]  # fmt: skip
    return np.asarray(found)


def _agreed(truth: float, items: int, evaluations: int, seed: int) -> Floats:
    """Tokens agreed on a block: (evaluations, items)."""
    random, size = np.random.default_rng(seed), 1 / CORRELATION - 1
    shares = random.beta(truth * size, (1 - truth) * size, (evaluations, items))
    return random.binomial(TOKENS, shares).astype(np.float64)


def _agreement(items: int, evaluations: int) -> Iterator[Figure]:
    counts = np.full(items, float(TOKENS))
    for truth, candidate in ((0.80, "well inside"), (LIMIT, "at the limit, not good"), (LIMIT - 0.03, "beyond")):
        drawn = _agreed(truth, items, evaluations, seed=items)
        ends = {
            "ours": np.asarray([ClusteredShare(row, counts).lower(CONFIDENCE) for row in drawn]),
            "figure": drawn.mean(axis=1) / TOKENS,
            "tokens": np.asarray(beta.ppf(1 - CONFIDENCE, drawn.sum(axis=1), items * TOKENS - drawn.sum(axis=1) + 1)),
        }
        for method, lower in ends.items():
            wrong = 1 - CONFIDENCE if truth <= LIMIT and method == "ours" else None
            yield Figure("agreement", items, candidate, method, "pass", _share(lower >= LIMIT), wrong, evaluations)
            if candidate == "well inside" and method != "figure":
                yield Figure(
                    "agreement", items, candidate, method, "coverage", _share(lower <= truth), None, evaluations
                )


def _documents(items: int, limit: float, evaluations: int) -> Iterator[Figure]:
    """Items that are right or wrong: the share that is lost less the share that is won, against ``limit``."""
    for lost, won, candidate in (
        (0.0, 0.0, "as good as the original"),
        (0.05, 0.05, "as good, one in ten differs"),
        (limit, 0.0, "at the limit, wins none"),
        (limit + 0.05, 0.05, "at the limit, wins 5 %"),
        (2 * limit, 0.0, "beyond"),
    ):
        drawn = np.random.default_rng(items).random((evaluations, items))
        drops = np.where(drawn < lost, 1.0, np.where(drawn < lost + won, -1.0, 0.0))
        ends = {
            "ours": np.asarray([PairedShare(row).upper(CONFIDENCE) for row in drops]),
            "mean": np.asarray([PairedMean(row, resamples=RESAMPLES).upper(CONFIDENCE) for row in drops]),
            "figure": drops.mean(axis=1),
        }
        for method, upper in ends.items():
            wrong = 1 - CONFIDENCE if lost - won >= limit - 1e-9 and method == "ours" else None
            name = f"right or wrong, at most {limit:.0%} lost"
            yield Figure(name, items, candidate, method, "pass", _share(upper <= limit), wrong, evaluations)


def _contexts(contexts: int, each: int, limit: float, evaluations: int) -> Iterator[Figure]:
    """A reader's questions, ``each`` on one context, that are lost all together."""
    groups = np.repeat(np.arange(contexts), each).tolist()
    for lost, candidate in ((0.0, "as good as the teacher"), (limit, "at the limit, whole contexts")):
        drawn = np.random.default_rng(contexts).random((evaluations, contexts)) < lost
        rows = np.repeat(drawn, each, axis=1).astype(np.float64)
        ends = {
            "ours": np.asarray([drop(row.tolist(), [0.0] * len(groups), groups).upper(CONFIDENCE) for row in rows]),
            "mean": np.asarray([PairedMean(row, resamples=RESAMPLES).upper(CONFIDENCE) for row in drawn]),
            "figure": rows.mean(axis=1),
        }
        for method, upper in ends.items():
            wrong = 1 - CONFIDENCE if lost and method == "ours" else None
            name = f"{each} questions each, at most {limit:.0%} lost"
            yield Figure(name, contexts, candidate, method, "pass", _share(upper <= limit), wrong, evaluations)


def _family(items: int, evaluations: int) -> Iterator[Figure]:
    """The whole gate: one metric at its limit and the others good; then which metrics are said to be outside when none
    is, with Holm's adjustment and without.
    """
    for truths, candidate in (
        ((0.0, 0.80), "both metrics good"),
        ((MARGIN, 0.80), "perplexity at the limit"),
        ((MARGIN, LIMIT), "both at their limits"),
    ):
        passed = any_said = any_raw = 0
        loss = _blocks("skewed", truths[0], items, evaluations, seed=3)
        agreed = _agreed(truths[1], items, evaluations, seed=4)
        for row, ones in zip(loss, agreed, strict=True):
            checks = _gate(row, ones, items)
            passed += all(check.passed for check in checks)
            chances = [check.worse_p for check in checks if check.worse_p is not None]
            any_said += min(chances) < 1 - CONFIDENCE
            raw = PairedMean(row, resamples=RESAMPLES).p_above(MARGIN), _share_p(ones, items)
            any_raw += min(raw) < 1 - CONFIDENCE
        wrong = None if candidate == "both metrics good" else 1 - CONFIDENCE
        metric = "perplexity and agreement"
        yield Figure(metric, items, candidate, "ours", "pass", passed / evaluations, wrong, evaluations)
        if candidate == "both at their limits":
            said, most = "outside", 1 - CONFIDENCE
            yield Figure(metric, items, candidate, "Holm", said, any_said / evaluations, most, evaluations)
            yield Figure(metric, items, candidate, "unadjusted", said, any_raw / evaluations, None, evaluations)


def _gate(row: Floats, ones: Floats, items: int) -> tuple[GateCheck, ...]:
    loss = PairedMean(row, resamples=RESAMPLES)
    share = ClusteredShare(ones, np.full(items, float(TOKENS)))
    held = (
        Held("log perplexity", loss.value, MARGIN, "at most", "", loss),
        Held("agreement", share.value, LIMIT, "at least", "", share),
    )
    return decide(held, CONFIDENCE)


def _share_p(ones: Floats, items: int) -> float:
    return ClusteredShare(ones, np.full(items, float(TOKENS))).p_below(LIMIT)


def _power(evaluations: int) -> Iterator[Figure]:
    """Pilots of 16 blocks of a candidate that is worse by half the margin ask for more; how many of those then pass?"""
    truth, asked, passed = MARGIN / 2, [], 0
    for number, pilot in enumerate(_blocks("skewed", truth, 16, evaluations, seed=5)):
        first = PairedMean(pilot, resamples=RESAMPLES)
        # The truth for the pilot's mean: what is asked is whether the spread was enough to tell, not luck in the mean.
        end = truth + (first.upper(CONFIDENCE) or 0.0) - first.value
        needed = needed_items(truth, first.error, 16, MARGIN, CONFIDENCE, end)
        assert needed is not None
        asked.append(needed)
        (row,) = _blocks("skewed", truth, max(needed, 8), 1, seed=1000 + number)
        upper = PairedMean(row, resamples=RESAMPLES).upper(CONFIDENCE)
        passed += upper is not None and upper <= MARGIN
    items = int(np.median(asked))
    metric, candidate = "perplexity, skewed blocks", "half the margin worse"
    yield Figure(metric, items, candidate, "ours", "power", passed / evaluations, None, evaluations)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean())


if __name__ == "__main__":
    main()
