"""Evidence that may be looked at after every request: e-processes for shares and quantiles.

A non-negative process ``E`` is an e-process for a hypothesis when, under it, its mean is at most 1 at every stopping
time. By Ville's inequality it ever reaches ``1 / alpha`` with probability at most ``alpha``, however often one looks
(Ramdas, Grünwald, Vovk, Shafer: Game-theoretic statistics and safe anytime-valid inference, Statistical Science 38(4),
2023). Everything here is the logarithm of one.

One stream of zeros and ones is tested with a mixture of likelihood ratios against the limit, each for another share on
the alternative's side (Robbins: Statistical methods related to the law of the iterated logarithm, Annals of
Mathematical Statistics 41(5), 1970). Written for the log odds ``d`` between alternative and limit ``p``, a ratio is
``exp(d * ones) / (1 - p + p * exp(d)) ** trials``: a supermartingale for every share on the other side, so the
hypothesis may be one-sided.

Two streams are tested through the baseline's unknown value: were it ``q``, the baseline's own stream would be an
e-process against ``q`` and the candidate's one against what ``q`` allows it, and so is their product, in whatever order
requests arrive. The truth is one of the ``q``, so the least product over all ``q`` is an e-process too (Wasserman,
Ramdas, Balakrishnan: Universal inference, PNAS 117(29), 2020, with the nuisance profiled out). This is exact at
every size; no errors at all in the baseline is an ordinary case.

Rates drift and shares of the traffic change, so streams may not simply be pooled (Simpson's paradox). ``matched`` gives
each minute's counts weights at which both versions always weigh the same there. Two inequalities keep what was said
above, given how many requests each minute had:

- a minute's ones at a weight ``r`` of at most 1 are ``r * n`` trials: ``E[exp(d * r * ones)]`` is
  ``(1 - p + p * exp(r * d)) ** n``, at most ``(1 - p + p * exp(d)) ** (r * n)``, since ``E[X ** r] <= E[X] ** r``;
- ``log(1 - p + p * exp(d))`` is concave in ``p``, so with minutes of different shares the ratio against their weighted
  mean is at most the product of the ratios against each minute's own (Jensen).

So shares are compared as means over the minutes, both versions weighted alike, and the errors' bounds hold however the
rate drifts from minute to minute and however the traffic is split, for any number of looks. Within a minute it is
assumed that not both change at once. For quantiles the same holds at any one look; over all looks only while the
pooled quantile stays: where it moves, another event is counted. ``benchmarks/judge.py`` counts that case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["above", "below"]
Floats = NDArray[np.float64]

# Log odds of the alternatives: from a tenth (a share of 10 % against 11 %) to nearly 6 (1 % against 77 %), equal
# weights. The first is the limit itself, whose ratio is always 1: so evidence never sinks below -log(12), and a long
# stream of one version cannot drown what a short one of the other has shown.
_LOG_ODDS = np.concatenate([[0.0], 0.1 * 1.5 ** np.arange(11)])
_COARSE, _FINE, _ROUNDS = 33, 17, 4


@dataclass(frozen=True)
class Histogram:
    """Values of which only counts are known: ``at_or_below[i]`` of the ``trials`` lie at or below ``bounds[i]``."""

    bounds: Floats
    at_or_below: Floats
    trials: float

    def __post_init__(self) -> None:
        if len(self.bounds) != len(self.at_or_below) or np.any(np.diff(self.bounds) <= 0):
            raise ValueError("a histogram has one count a bound, and its bounds ascend")

    def least(self, limits: Floats, ratio: float = 1.0) -> Floats:
        """How many values surely lie at or below ``ratio`` times each limit."""
        at = np.searchsorted(self.bounds / ratio, limits, side="right")
        found: Floats = np.concatenate([[0.0], self.at_or_below])[at]
        return found

    def most(self, limits: Floats, ratio: float = 1.0) -> Floats:
        """How many values may lie at or below ``ratio`` times each limit."""
        at = np.searchsorted(self.bounds / ratio, limits, side="left")
        found: Floats = np.concatenate([self.at_or_below, [float(self.trials)]])[at]
        return found


def matched(trials: ArrayLike, base_trials: ArrayLike, ratio: float = 1.0) -> tuple[Floats, Floats]:
    """Weights, 0–1, at which the baseline has ``ratio`` times the candidate's trials in every minute.

    Args:
        trials: the candidate's, one a minute.
        base_trials: the baseline's in the same minutes.
        ratio: fixed before the release: near what the split of the traffic will be, least is lost; with any it holds.

    Returns:
        The candidate's weight and the baseline's, one a minute; 0 where one of them had none.
    """
    n, m = np.asarray(trials, dtype=np.float64), np.asarray(base_trials, dtype=np.float64)
    both = np.minimum(n, m / ratio)
    return both / np.maximum(n, 1.0), ratio * both / np.maximum(m, 1.0)


def share_evidence(ones: ArrayLike, trials: ArrayLike, limit: ArrayLike, side: Side) -> Floats:
    """Log evidence that a share lies above (below) ``limit``, against all shares at or below (at or above) it.

    Args:
        ones: how many of the trials were one; arguments broadcast against each other.
        trials: how many there were.
        limit: the hypothesis' boundary, 0–1.
        side: where the alternative lies.
    """
    s, n, p = (np.asarray(value, dtype=np.float64)[..., None] for value in (ones, trials, limit))
    odds = _LOG_ODDS if side == "above" else -_LOG_ODDS
    ratios = s * odds - n * np.log1p(p * np.expm1(odds))
    most = ratios.max(axis=-1, keepdims=True)  # so that exp neither overflows nor loses all
    evidence: Floats = most[..., 0] + np.log(np.exp(ratios - most).mean(axis=-1))
    return evidence


def two_share_evidence(
    ones: ArrayLike, trials: ArrayLike, base_ones: ArrayLike, base_trials: ArrayLike, margin: float, side: Side
) -> Floats:
    """Log evidence that the candidate's share lies above (below) the baseline's plus ``margin``.

    Args:
        ones, trials: the candidate's counts; many pairs at once may be given, as arrays of one shape.
        base_ones, base_trials: the baseline's, of the same shape.
        margin: -1 to 1.
        side: where the alternative lies.

    Returns:
        The shape of the arguments.
    """
    counts = [np.asarray(value, dtype=np.float64)[..., None] for value in (ones, trials, base_ones, base_trials)]
    s, n, t, m = np.broadcast_arrays(*counts)
    other: Side = "below" if side == "above" else "above"
    lowest, highest = max(0.0, -margin), min(1.0, 1.0 - margin)
    # Squared spacing: shares of errors lie near zero. Then the neighbourhood of the least product, ever finer.
    grid = np.broadcast_to(lowest + (highest - lowest) * np.linspace(0, 1, _COARSE) ** 2, (*s.shape[:-1], _COARSE))
    for _ in range(_ROUNDS):
        product = share_evidence(s, n, grid + margin, side) + share_evidence(t, m, grid, other)
        at = np.argmin(product, axis=-1)[..., None]
        low = np.take_along_axis(grid, np.maximum(at - 1, 0), axis=-1)
        high = np.take_along_axis(grid, np.minimum(at + 1, grid.shape[-1] - 1), axis=-1)
        grid = low + (high - low) * np.linspace(0, 1, _FINE)
    least: Floats = np.min(product, axis=-1)
    return least


def quantile_evidence(values: ArrayLike, base_values: ArrayLike, quantile: float, ratio: float, side: Side) -> float:
    """Log evidence that the candidate's quantile lies above (below) ``ratio`` times the baseline's.

    Were the baseline's quantile ``t``, a share ``quantile`` of its values would lie at or below ``t``, and at least (at
    most) that share of the candidate's at or below ``ratio * t``: two shares with known limits for every ``t``. The
    counts change only where ``t`` passes a value, so the least product is found exactly. Values equal to ``t`` count
    for the hypothesis in both streams, so that clocks with coarse steps make no evidence.

    Args:
        values: the candidate's, any order, positive.
        base_values: the baseline's.
        quantile: 0.5 for the median, 0.9, 0.99, …
        ratio: above 0; 1.2 allows a fifth more.
        side: where the alternative lies.
    """
    mine = np.sort(np.asarray(values, dtype=np.float64)) / ratio
    base = np.sort(np.asarray(base_values, dtype=np.float64))
    if len(mine) == 0 or len(base) == 0:
        return 0.0
    limits = np.unique(np.concatenate([mine, base]))
    if side == "above":
        slow, fast = np.searchsorted(mine, limits, side="right"), np.searchsorted(base, limits, side="left")
        product = share_evidence(slow, len(mine), quantile, "below") + share_evidence(
            fast, len(base), quantile, "above"
        )
    else:
        fast, slow = np.searchsorted(mine, limits, side="left"), np.searchsorted(base, limits, side="right")
        product = share_evidence(fast, len(mine), quantile, "above") + share_evidence(
            slow, len(base), quantile, "below"
        )
    return float(np.min(product))


def binned_quantile_evidence(mine: Histogram, base: Histogram, quantile: float, ratio: float, side: Side) -> float:
    """``quantile_evidence`` of values of which only histograms are known.

    Between two neighbouring bounds each count is taken where it makes least evidence, so this is at most what the
    values themselves would give, whatever the bounds: they may differ from look to look, and may be chosen by looking.
    """
    if mine.trials == 0 or base.trials == 0:
        return 0.0
    edges = np.unique(np.concatenate([mine.bounds / ratio, base.bounds]))
    low, high = np.concatenate([[-np.inf], edges]), np.concatenate([edges, [np.inf]])  # t lies in (low, high]
    if side == "above":
        product = share_evidence(mine.most(high, ratio), mine.trials, quantile, "below") + share_evidence(
            base.least(low), base.trials, quantile, "above"
        )
    else:
        product = share_evidence(mine.least(low, ratio), mine.trials, quantile, "above") + share_evidence(
            base.most(high), base.trials, quantile, "below"
        )
    return float(np.min(product))
