"""CloudWatch's extended statistics: ``p99``, ``tm90``, ``TM(2%:98%)``, ``PR(:300)``, ``IQM`` and the rest.

"CloudWatch statistics definitions" in the CloudWatch user guide. A range excludes its lower bound and includes its
upper one. A percentage cuts by rank, and a value on the cut counts in part, so a trimmed count may be a fraction (as on
AWS, whose interpolation is not documented). None of them is known where a value is negative.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NUMBER = r"\d{1,15}(?:\.\d{0,10})?"
_SHORT = re.compile(r"(p|tm|wm|tc|ts)(\d{1,2}(?:\.\d{0,10})?|100(?:\.0{0,10})?)")
_RANGE = re.compile(rf"(TM|WM|TC|TS|PR)\(({_NUMBER})?(%)?:({_NUMBER})?(%)?\)")

Samples = Sequence[tuple[float, float]]  # value, how often; by value


class BadStatistic(ValueError):
    """Not a statistic that CloudWatch has."""


@dataclass(frozen=True, slots=True)
class Extended:
    """One extended statistic. ``low`` and ``high`` are percentages of the samples, or values, as ``percent`` says."""

    kind: str  # P, TM, WM, TC, TS or PR
    low: float
    high: float
    percent: bool

    def of(self, samples: Samples) -> float | None:
        """The statistic of samples; None where it is not defined: nothing is left in the range."""
        count = sum(number for _, number in samples)
        if self.kind == "P":
            return percentile(samples, count, self.high)
        if self.kind == "WM":
            return self._winsorized(samples, count)
        kept = list(self._kept(samples, count))
        within = sum(number for _, number in kept)
        if self.kind == "PR":
            return 100.0 * within / count
        if self.kind == "TC":
            return within
        total = math.fsum(value * number for value, number in kept)
        if self.kind == "TS":
            return total
        return total / within if within else None

    def _kept(self, samples: Samples, count: float) -> Iterator[tuple[float, float]]:
        """Samples in the range."""
        if not self.percent:
            yield from ((value, number) for value, number in samples if self.low < value <= self.high)
            return
        first, last, seen = self.low / 100 * count, self.high / 100 * count, 0.0
        for value, number in samples:
            part = min(seen + number, last) - max(seen, first)
            seen += number
            if part > 0:
                yield value, part

    def _winsorized(self, samples: Samples, count: float) -> float:
        """The mean with whatever lies outside taken to the boundary."""
        low, high = self.low, self.high
        if self.percent:
            low, high = percentile(samples, count, low), percentile(samples, count, high)
        return math.fsum(min(max(value, low), high) * number for value, number in samples) / count


@functools.lru_cache(maxsize=1024)
def parse(name: str) -> Extended:
    """A statistic by its name. Raises ``BadStatistic``."""
    if name == "IQM":
        return Extended("TM", 25.0, 75.0, percent=True)
    if short := _SHORT.fullmatch(name):
        return Extended(short.group(1).upper(), 0.0, float(short.group(2)), percent=True)
    found = _RANGE.fullmatch(name)
    if not found:
        raise BadStatistic(name)
    kind, low, low_percent, high, high_percent = found.groups()
    percent = bool(low_percent or high_percent)
    bounds = [(low, low_percent), (high, high_percent)]
    if not (low or high) or any(bool(sign) != (percent and bool(number)) for number, sign in bounds):
        raise BadStatistic(name)
    least, most = float(low or 0.0 if percent else low or -math.inf), float(high or (100.0 if percent else math.inf))
    if least >= most or (percent and (most > 100 or kind == "PR")):
        raise BadStatistic(name)
    return Extended(kind, least, most, percent)


def percentile(samples: Samples, count: float, percent: float) -> float:
    """Linear interpolation between the closest ranks."""
    rank = percent / 100 * max(0.0, count - 1)
    below, above = _at(samples, math.floor(rank)), _at(samples, math.ceil(rank))
    return below + (above - below) * (rank - math.floor(rank))


def _at(samples: Samples, rank: int) -> float:
    seen = 0.0
    for value, number in samples:
        seen += number
        if seen > rank:
            return value
    return samples[-1][0]
