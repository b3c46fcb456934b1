"""How sure a difference between two models on the same items is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def upper_drop(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> float:
    """Upper end of the one-sided interval of mean(baseline) − mean(candidate), by the percentile bootstrap over paired
    items (Efron 1979; Koehn 2004, "Statistical significance tests for machine translation evaluation").

    Args:
        baseline, candidate: a figure an item, in the same order, at least one item.
    """
    drops = np.asarray(baseline, dtype=np.float64) - np.asarray(candidate, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(drops), (resamples, len(drops)))
    return float(np.quantile(drops[drawn].mean(axis=1), confidence))
