"""How sure a share is that one model gets wrong and the other right, on the same items.

Right or wrong is all there is to an item, or little more, and most items come out alike: a mean over items then sees
hardly any spread, and an interval by its spread is far too narrow. With none at all it would be a point, after two
items as after two thousand. ``PairedShare`` is Tango's score interval for the difference of paired proportions (Tango
1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
Statistics in Medicine 17), which takes its spread from the limit that is tested and not from the sample.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # scipy.stats takes a second to import, and every flow would pay it

from tasks.compression.paired import PairedMean, by_group, ratios

FEW_DIFFER = 20  # fewer items that differ say too little of their spread for a bootstrap
_HALVINGS = 60


def drop(
    baseline: Sequence[float], candidate: Sequence[float], groups: Sequence[Hashable] | None = None
) -> PairedMean | PairedShare:
    """mean(baseline) − mean(candidate) of figures from 0 to 1 with its intervals, paired by item.

    Args:
        baseline, candidate: a figure an item, such as a question, in the same order, at least one.
        groups: what each item was drawn with, such as its context: questions on one context are right or wrong
            together, so contexts are drawn and not questions. Each item alone where left out.
    """
    drops = np.asarray(baseline, dtype=np.float64) - np.asarray(candidate, dtype=np.float64)
    units = range(len(drops)) if groups is None else groups
    whole = groups is None and bool(np.isin(drops, (-1.0, 0.0, 1.0)).all())
    few = len({unit for unit, each in zip(units, drops, strict=True) if each}) < FEW_DIFFER
    beyond = bool((np.abs(drops) > 1).any())  # a task's metric on another scale, such as BLEU's
    return PairedShare(drops, units) if (whole or few) and not beyond else PairedMean(*by_group(drops, units))


class PairedShare:
    """Share that is lost less share that is won.

    Parts of an item (an F1 of 0.5) count as so much of one, which makes the interval a little wide. Items of one group
    count as one: where hardly a group differs there is no telling how much they hang together.
    """

    def __init__(self, drops: ArrayLike, groups: Sequence[Hashable] | None = None) -> None:
        """
        Args:
            drops: what is lost with each item, −1 to 1, (items,).
            groups: what each was drawn with; each alone where left out.
        """
        each = np.asarray(drops, dtype=np.float64)
        sums, counts = by_group(each, range(len(each)) if groups is None else groups)
        values, errors = ratios(sums[None], counts[None])
        self.items, self.value, self.error = len(sums), float(values[0]), float(errors[0])
        self._lost, self._won = float(np.maximum(each, 0).mean()), float(np.maximum(-each, 0).mean())

    def lower(self, confidence: float) -> float | None:
        return None if self.items < 2 else -self._end(self._won, self._lost, confidence)

    def upper(self, confidence: float) -> float | None:
        return None if self.items < 2 else self._end(self._lost, self._won, confidence)

    def p_above(self, limit: float) -> float:
        if self.items < 2:
            return 1.0
        return float(special.ndtr(-score(self._lost, self._won, self.items, limit)))

    def p_below(self, limit: float) -> float:
        if self.items < 2:
            return 1.0
        return float(special.ndtr(-score(self._won, self._lost, self.items, -limit)))

    def _end(self, lost: float, won: float, confidence: float) -> float:
        """Where the score is as far below 0 as the confidence asks for: it falls as the difference rises."""
        reach = float(special.ndtri(confidence))
        low, high = lost - won, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if score(lost, won, self.items, middle) > -reach else (low, middle)
        return high


def score(lost: float, won: float, items: int, difference: float) -> float:
    """Tango's statistic, normal if ``difference`` is the truth: (lost − won − difference) ÷ its standard error there.

    Args:
        lost, won: shares of the ``items``.
        difference: −1 to 1.
    """
    distance = lost - won - difference
    # The share that is won, as likely as can be if the difference is the truth: the root of a quadratic.
    linear = -lost - won + (2 - lost + won) * difference
    constant = -won * difference * (1 - difference)
    likely = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4
    variance = (2 * likely + difference * (1 - difference)) / items
    if variance <= 1e-15:
        return math.copysign(math.inf, distance) if abs(distance) > 1e-12 else 0.0
    return distance / math.sqrt(variance)
