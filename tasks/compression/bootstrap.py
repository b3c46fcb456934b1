"""How sure a drop in quality is, of two readers on the same questions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from tasks.compression.paired import PairedMean, by_group


def drop(baseline: Sequence[float], candidate: Sequence[float], groups: Sequence[Hashable] | None = None) -> PairedMean:
    """mean(baseline) − mean(candidate) with its intervals, paired by question.

    Args:
        baseline, candidate: a figure a question, in the same order, at least one.
        groups: what each question was drawn with, such as its context: questions on one context are right or wrong
            together, so contexts are drawn and not questions. Each question alone where left out.
    """
    drops = np.asarray(baseline, dtype=np.float64) - np.asarray(candidate, dtype=np.float64)
    return PairedMean(*by_group(drops, groups if groups is not None else range(len(drops))))
