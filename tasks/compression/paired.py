"""How sure a figure is that two models have on the same items.

An item is what was drawn by chance: a block of held-out text, a prompt, a context with its questions. The tokens of a
block depend on each other, so an item counts once however many positions it has. Both models' results on an item are
reduced to one number before anything is drawn (the pairing), so that what makes an item hard for both cancels out.

``PairedMean`` is for sums that may be anything, such as the difference of log likelihoods: the studentised bootstrap
over items (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5), whose one-sided ends hold on
skewed items where percentile and BCa ends fall short with few of them (``python -m benchmarks.gate``).
``ClusteredShare`` is for shares of positions: the exact interval of Clopper and Pearson at the effective number of
positions that the spread between items leaves (Korn & Graubard 1998, "Confidence intervals for proportions with small
expected number of positive counts estimated from survey data", Survey Methodology 24). Of items that are right or
wrong as a whole: ``paired_share``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats takes a second to import, and every flow would pay it

POWER = 0.8
FEW_ITEMS = 8  # fewer have too few different resamples: Student's t instead
_AT_ONCE = 1 << 21  # numbers drawn at a time, so that memory does not grow with the items

Floats = NDArray[np.float64]


class Estimate(Protocol):
    """A figure with its one-sided intervals. ``items`` it rests on; ``error``: its standard error."""

    value: float
    items: int
    error: float

    def lower(self, confidence: float) -> float | None:
        """Lower end of the one-sided interval; none where there are too few items for any."""
        ...

    def upper(self, confidence: float) -> float | None: ...

    def p_above(self, limit: float) -> float:
        """Chance of a figure as high as this if the truth were ``limit``."""
        ...

    def p_below(self, limit: float) -> float: ...


class PairedMean:
    """Σ sums ÷ Σ counts over items."""

    def __init__(self, sums: ArrayLike, counts: ArrayLike | None = None, *, resamples: int = 4000, seed: int = 0):
        """
        Args:
            sums: a figure an item, (items,).
            counts: what each is a sum over, (items,); 1 where left out.
            resamples, seed: of the bootstrap.
        """
        self._sums = np.asarray(sums, dtype=np.float64)
        self._counts = np.ones_like(self._sums) if counts is None else np.asarray(counts, dtype=np.float64)
        self.items = len(self._sums)
        values, errors = ratios(self._sums[None], self._counts[None])
        self.value, self.error = float(values[0]), float(errors[0])
        self._resamples, self._seed = resamples, seed
        self._drawn: Floats | None = None

    def lower(self, confidence: float) -> float | None:
        return None if self.items < 2 else self.value - self._quantile(confidence) * self.error

    def upper(self, confidence: float) -> float | None:
        return None if self.items < 2 else self.value - self._quantile(1 - confidence) * self.error

    def p_above(self, limit: float) -> float:
        if self.items < 2:
            return 1.0
        distance = self.value - limit
        if self.error == 0:
            return float(distance <= 0)
        if self.items < FEW_ITEMS:
            return float(special.stdtr(self.items - 1, -distance / self.error))
        drawn = self._studentised()
        return float((1 + np.count_nonzero(drawn >= distance / self.error)) / (1 + len(drawn)))

    def p_below(self, limit: float) -> float:
        mirrored = PairedMean(-self._sums, self._counts, resamples=self._resamples, seed=self._seed)
        return mirrored.p_above(-limit)

    def _quantile(self, share: float) -> float:
        """Of (estimate − truth) ÷ standard error."""
        if self.items < FEW_ITEMS:
            return float(special.stdtrit(self.items - 1, share))
        return float(np.quantile(self._studentised(), share))

    def _studentised(self) -> Floats:
        if self._drawn is None:
            random, rows = np.random.default_rng(self._seed), max(1, _AT_ONCE // self.items)
            parts = []
            for start in range(0, self._resamples, rows):
                shape = (min(rows, self._resamples - start), self.items)
                drawn = random.integers(0, self.items, shape)
                values, errors = ratios(self._sums[drawn], self._counts[drawn])
                # A resample of equal items says nothing of their spread: that of the sample stands in.
                spread = np.where(errors > 0, errors, self.error)
                difference = values - self.value
                parts.append(np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0))
            self._drawn = np.concatenate(parts)
        return self._drawn


class ClusteredShare:
    """Share of ones among positions that lie in items."""

    def __init__(self, ones: ArrayLike, counts: ArrayLike) -> None:
        """``ones`` of ``counts`` positions an item, both (items,)."""
        self._counts = np.asarray(counts, dtype=np.float64)
        values, errors = ratios(np.asarray(ones, dtype=np.float64)[None], self._counts[None])
        self.items, self.value, self.error = len(self._counts), float(values[0]), float(errors[0])
        positions = float(self._counts.sum())
        # Without spread between items there is none to see; positions then count as they are.
        between = self.value * (1 - self.value) / self.error**2 if self.error > 0 else positions
        self._effective = min(positions, between)

    def lower(self, confidence: float) -> float | None:
        if self.items < 2:
            return None
        size = self._size(confidence)
        ones = self.value * size
        return float(special.betaincinv(ones, size - ones + 1, 1 - confidence)) if ones > 0 else 0.0

    def upper(self, confidence: float) -> float | None:
        if self.items < 2:
            return None
        size = self._size(confidence)
        ones = self.value * size
        return float(special.betaincinv(ones + 1, size - ones, confidence)) if ones < size else 1.0

    def p_above(self, limit: float) -> float:
        if self.items < 2 or self.value == 0:
            return 1.0
        size = self._size(0.95)
        return float(special.betainc(self.value * size, size - self.value * size + 1, limit))

    def p_below(self, limit: float) -> float:
        if self.items < 2 or self.value == 1:
            return 1.0
        size = self._size(0.95)
        return float(special.betaincc(self.value * size + 1, size - self.value * size, limit))

    def _size(self, confidence: float) -> float:
        """Effective positions, fewer because the spread between few items is itself uncertain."""
        if confidence <= 0.5:
            return self._effective
        many, few = (special.stdtrit(count - 1, confidence) for count in (float(self._counts.sum()), self.items))
        return float(self._effective * (many / few) ** 2)


def needed_items(
    value: float, error: float, items: int, limit: float, confidence: float, bound: float | None, power: float = POWER
) -> int | None:
    """Items with which a candidate that is truly as observed is proven within ``limit`` with chance ``power``, by the
    spread of the items at hand: n = ((q + z of power) · spread ÷ distance)², where q is how many standard errors the
    interval reaches. On skewed items that is more than the normal's z; the rest shrinks with the root of the items.
    The spread of few items is itself uncertain: it counts at the upper end of its own 80 % interval (Browne 1995, "On
    the use of a pilot sample for sample size determination", Statistics in Medicine 14).

    Args:
        value, error, items: an estimate on the good side of ``limit``; ``bound`` is its interval's end.

    Returns:
        None where it stands at the limit, or where one item says nothing of the spread.
    """
    distance = abs(limit - value)
    if distance == 0 or items < 2 or bound is None:
        return None
    if error == 0:  # no spread to go by: of shares the odds of what may be hidden fall as 1 ÷ items
        hidden = min(abs(bound - value), 0.999)
        return max(2, math.ceil(items * hidden / (1 - hidden) * max(1 - distance, 0.0) / distance))
    normal, more = float(special.ndtri(confidence)), float(special.ndtri(power))
    beyond = max(0.0, abs(bound - value) / error - normal)
    spread = error * math.sqrt(items) * math.sqrt((items - 1) / float(special.chdtri(items - 1, power)))
    size = float(items)
    for _ in range(60):  # a contraction: the reach changes slowly with the size
        size = max(2.0, ((normal + beyond * math.sqrt(items / size) + more) * spread / distance) ** 2)
    return math.ceil(size)


def holm(chances: Sequence[float]) -> list[float]:
    """The chances adjusted so that those below a level are all true with that error over the family (Holm 1979, "A
    simple sequentially rejective multiple test procedure").
    """
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def sign_test(differences: ArrayLike) -> float | None:
    """Chance of so uneven a split into better and worse items if both were as likely, exact and two-sided; none where
    no item differs. With one right-or-wrong question an item this is McNemar's test (McNemar 1947).
    """
    from scipy.stats import binomtest

    each = np.asarray(differences, dtype=np.float64)
    worse, better = int((each > 0).sum()), int((each < 0).sum())
    return float(binomtest(worse, worse + better).pvalue) if worse + better else None


def by_group(values: ArrayLike, groups: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sums and counts of ``values`` by group, groups in the order of their first item."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    where = np.asarray([places[group] for group in groups])
    each = np.asarray(values, dtype=np.float64)
    ones = np.ones(len(where))
    sums, counts = (np.bincount(where, weights, len(places)).astype(np.float64) for weights in (each, ones))
    return sums, counts


def ratios(sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Σ sums ÷ Σ counts and its standard error by linearisation, of every row of (rows, items)."""
    total, size = counts.sum(axis=1), sums.shape[1]
    values = sums.sum(axis=1) / total
    if size < 2:
        return values, np.zeros_like(values)
    left = sums - values[:, None] * counts
    spread = np.sqrt(size / (size - 1) * (left * left).sum(axis=1)) / total
    # Rounding leaves some 1e-17 where all items are equal: that is no spread.
    return values, np.where(spread > 1e-13 * np.abs(values), spread, 0.0)
