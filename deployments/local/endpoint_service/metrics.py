"""CloudWatch's metrics: samples aggregated by time, statistics and percentiles read back.

Memory is bounded. A series keeps buckets of its resolution (1, 10 or 60 s) for a while and folds them into minutes and
those into hours, as CloudWatch does (after shorter times here). A bucket keeps exact values while they are few
(``EXACT_VALUES`` different ones), then logarithmic bins 1 % wide, each known by its middle: a value is then within
0.5 % of what was sent. Reading adds buckets up without rounding again: counts within a range are exact on what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from deployments.local.endpoint_service.extended import parse

EXACT_VALUES = 128
_BIN = math.log(1.01)
_FINE_BUCKETS = {1: 10_800, 10: 1_080, 60: 1_440}  # buckets with data: three hours of seconds, a day of minutes
_MINUTES = 1_440
_HOURS = 1_440
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")

Dimensions = tuple[tuple[str, str], ...]
MetricName = tuple[str, str, Dimensions]  # namespace, name, sorted dimensions


@dataclass(slots=True)
class Bucket:
    """Samples of one stretch of time."""

    count: float = 0.0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    values: dict[float, float] = field(default_factory=dict)  # value (or bin) -> count
    binned: bool = False
    opaque: bool = False  # a statistic set came in: percentiles are unknown

    @classmethod
    def of(cls, values: Mapping[float, float]) -> Bucket:
        """A bucket of values and how often each came."""
        present = {float(value): float(count) for value, count in values.items() if count}
        made = cls(sum(present.values()), math.fsum(value * count for value, count in present.items()), values=present)
        if present:
            made.low, made.high = min(present), max(present)
        if len(present) > EXACT_VALUES:
            made._to_bins()
        return made

    def add(self, value: float, count: float = 1.0) -> None:
        self.count += count
        self.total += value * count
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        key = _bin(value) if self.binned else value
        self.values[key] = self.values.get(key, 0.0) + count
        if not self.binned and len(self.values) > EXACT_VALUES:
            self._to_bins()

    def add_set(self, count: float, total: float, low: float, high: float) -> None:
        """A statistic set: what was sent, without the samples behind it (known where they must all be equal)."""
        if count and (low == high or count == 1):
            self.add(total / count, count)
            return
        self.count += count
        self.total += total
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        self.opaque = True

    def merge(self, other: Bucket) -> None:
        """Add what another bucket keeps; long lists of values become bins."""
        if other.binned and not self.binned:
            self._to_bins()
        self.pour(other)
        if not self.binned and len(self.values) > EXACT_VALUES:
            self._to_bins()

    def pour(self, other: Bucket) -> None:
        """Add what another bucket keeps, for reading: no value is rounded once more."""
        self.count += other.count
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.opaque = self.opaque or other.opaque
        for value, count in other.values.items():
            key = _bin(value) if self.binned and not other.binned else value
            self.values[key] = self.values.get(key, 0.0) + count

    def statistic(self, name: str) -> float | None:
        """One of CloudWatch's statistics (``Average``, ``p99``, ``PR(:300)``); None where it cannot be known."""
        if not self.count:
            return None
        if name == "Average":
            return self.total / self.count
        simple = {"SampleCount": self.count, "Sum": self.total, "Minimum": self.low, "Maximum": self.high}
        if name in simple:
            return simple[name]
        wanted = parse(name)
        if self.opaque or self.low < 0:
            return None
        # A bin's middle may lie outside what was sent.
        return wanted.of(sorted((min(max(value, self.low), self.high), n) for value, n in self.values.items()))

    def _to_bins(self) -> None:
        exact, self.values, self.binned = self.values, {}, True
        for value, count in exact.items():
            key = _bin(value)
            self.values[key] = self.values.get(key, 0.0) + count


def _bin(value: float) -> float:
    """The middle of the value's logarithmic bin."""
    if value == 0:
        return 0.0
    return math.copysign(math.exp(round(math.log(abs(value)) / _BIN) * _BIN), value)


class Series:
    """One metric with one set of dimensions and one unit."""

    def __init__(self, unit: str, resolution: int) -> None:
        self.unit = unit
        self.resolution = resolution
        self.fine: dict[int, Bucket] = {}
        self.touched: set[int] = set()  # starts of fine buckets that were written to since the journal has looked
        self.minutes: dict[int, Bucket] = {}
        self.hours: dict[int, Bucket] = {}

    def bucket(self, when: float) -> Bucket:
        """The bucket that a sample of that time belongs to."""
        start = int(when // self.resolution) * self.resolution
        self.touched.add(start)
        found = self.fine.get(start)
        if found is None:
            found = self.fine[start] = Bucket()
            self.fold()
        return found

    def between(self, start: float, end: float) -> Iterator[tuple[int, Bucket]]:
        for buckets, step in ((self.hours, 3600), (self.minutes, 60), (self.fine, self.resolution)):
            if (end - start) / step < len(buckets):  # a short window: look each bucket up
                first = math.ceil(start / step) * step
                yield from ((at, buckets[at]) for at in range(first, math.ceil(end), step) if at in buckets)
            else:
                yield from ((at, bucket) for at, bucket in buckets.items() if start <= at < end)

    def fold(self) -> None:
        """Where there are too many, fold the older half into minutes, surplus minutes into hours, and forget surplus
        hours.
        """
        if len(self.fine) <= _FINE_BUCKETS[self.resolution]:
            return
        for at in sorted(self.fine)[: len(self.fine) // 2]:
            self.minutes.setdefault(at // 60 * 60, Bucket()).merge(self.fine.pop(at))
        for at in sorted(self.minutes)[: max(0, len(self.minutes) - _MINUTES)]:
            self.hours.setdefault(at // 3600 * 3600, Bucket()).merge(self.minutes.pop(at))
        for at in sorted(self.hours)[: max(0, len(self.hours) - _HOURS)]:
            del self.hours[at]


class Metrics:
    """Every series that was ever sent to this service."""

    def __init__(self) -> None:
        self._series: dict[MetricName, dict[str, Series]] = {}
        self._unsettled: set[Callable[[], None]] = set()

    def before_reading(self, settle: Callable[[], None]) -> None:
        """Call ``settle`` once, before the next read: a writer has samples that it has not added yet."""
        self._unsettled.add(settle)

    def _settle(self) -> None:
        while self._unsettled:
            self._unsettled.pop()()

    def series(self, name: MetricName, unit: str = "None", resolution: int = 60) -> Series:
        """The series to write to; made on first use."""
        units = self._series.setdefault(name, {})
        if unit not in units:
            units[unit] = Series(unit, resolution)
        return units[unit]

    def all_series(self) -> list[tuple[MetricName, str, Series]]:
        """Every series by its name and unit."""
        self._settle()
        return [(name, unit, series) for name, units in self._series.items() for unit, series in units.items()]

    def names(self) -> list[MetricName]:
        self._settle()
        return list(self._series)

    def units(self, name: MetricName) -> list[str]:
        self._settle()
        return list(self._series.get(name, {}))

    def window(self, name: MetricName, start: float, end: float, unit: str | None = None) -> Bucket:
        """Everything from ``start`` up to but not including ``end``, in one bucket."""
        self._settle()
        merged = Bucket()
        for key, series in self._series.get(name, {}).items():
            if unit is None or unit == key:
                for _, bucket in series.between(start, end):
                    merged.pour(bucket)
        return merged

    def periods(
        self, name: MetricName, start: float, end: float, period: int, unit: str | None = None, cut: bool = True
    ) -> dict[float, Bucket]:
        """Buckets of ``period`` seconds by their start. The first begins at ``start``, with ``cut`` cut to the minute
        (or, below one, to the period)."""
        self._settle()
        step = 60 if period >= 60 else period
        first = start // step * step if cut else start
        merged: dict[float, Bucket] = {}
        for key, series in self._series.get(name, {}).items():
            if unit is None or unit == key:
                for at, bucket in series.between(first, end):
                    begin = first + (at - first) // period * period
                    merged.setdefault(begin, Bucket()).pour(bucket)
        return dict(sorted(merged.items()))


def dimensions(given: Mapping[str, str]) -> Dimensions:
    return tuple(sorted(given.items()))
