"""One metric against its limit: how a figure, its interval and the limit become a verdict.

A margin is held by the interval's end, so a candidate that is truly outside passes in at most α = 1 − confidence of
runs, whatever the number of items: few items make it inconclusive, never good. All checks must pass, and the gate errs
only where every one of them does: it is an intersection-union test, whose error is at most α without any correction
(Berger 1982, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24). That a failed metric is
outside is another statement, one a metric: those carry a chance adjusted by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.compression.paired import Estimate, holm, needed_items
from tasks.contracts import GateCheck
from tasks.evidence_contracts import Verdict

Sense = Literal["at most", "at least"]


def same(value: float) -> float:
    return value


@dataclass(frozen=True)
class Held:
    """A figure that is held against a limit.

    Attributes:
        observed, limit: as people read them.
        estimate: the figure on the scale on which items add up, or none where it is exact or alone.
        scale, shown: from the people's scale to that one, and back.
        items: what an item is, and which field makes more of them.
    """

    metric: str
    observed: float
    limit: float
    sense: Sense
    remedy: str
    estimate: Estimate | None = None
    scale: Callable[[float], float] = same
    shown: Callable[[float], float] = same
    items: str = "held-out blocks (data.evaluation_blocks)"


def decide(held: Sequence[Held], confidence: float) -> tuple[GateCheck, ...]:
    """A check each. Their chances are adjusted over those that have one."""
    chances = [_chance(each) for each in held]
    known = [chance for chance in chances if chance is not None]
    adjusted = iter(holm(known))
    return tuple(
        _check(each, confidence, None if chance is None else next(adjusted))
        for each, chance in zip(held, chances, strict=True)
    )


def _chance(held: Held) -> float | None:
    """Of such a figure if the truth were at the limit."""
    if held.estimate is None:
        return None
    limit = held.scale(held.limit)
    return held.estimate.p_above(limit) if held.sense == "at most" else held.estimate.p_below(limit)


def _within(value: float, held: Held) -> bool:
    return value <= held.limit if held.sense == "at most" else value >= held.limit


def _check(held: Held, confidence: float, chance: float | None) -> GateCheck:
    inside, estimate = _within(held.observed, held), held.estimate
    if estimate is None:
        return GateCheck(
            metric=held.metric,
            observed=held.observed,
            limit=held.limit,
            sense=held.sense,
            passed=inside,
            remedy=held.remedy,
            verdict="passed" if inside else "failed",
        )
    end = _end(held, estimate, confidence)
    bound = None if end is None else held.shown(end)
    proven = bound is not None and math.isfinite(bound) and _within(bound, held)
    verdict: Verdict = "failed" if not inside else "passed" if proven else "inconclusive"
    needed = (
        needed_items(estimate.value, estimate.error, estimate.items, held.scale(held.limit), confidence, end)
        if inside
        else None
    )
    return GateCheck(
        metric=held.metric,
        observed=held.observed,
        limit=held.limit,
        sense=held.sense,
        passed=verdict == "passed",
        remedy=more_items(held.items, estimate.items, needed) if verdict == "inconclusive" else held.remedy,
        verdict=verdict,
        bound=bound,
        confidence=confidence,
        items=estimate.items,
        needed_items=needed,
        worse_p=chance,
    )


def _end(held: Held, estimate: Estimate, confidence: float) -> float | None:
    """Of the interval, towards the limit; the figure itself at a confidence of a half."""
    if confidence <= 0.5:
        return estimate.value
    return estimate.upper(confidence) if held.sense == "at most" else estimate.lower(confidence)


def more_items(what: str, items: int, needed: int | None) -> str:
    """What to do about an inconclusive check."""
    if needed is None:
        return f"more {what}: {items} say nothing of their spread"
    # The approximation behind it is a little short with few items.
    return f"about {max(needed, items + 1)} {what}, {items} were compared; or a wider limit"
