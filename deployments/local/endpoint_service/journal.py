"""Metrics and the history of alarms on disk: ``metrics.jsonl``, lines that are added while the service runs.

A line holds one bucket of one series as it was when it was written; a later line of the same bucket takes its place. So
what is added in a few seconds is written in the time that it takes, and a service that is killed loses those seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

from deployments.local.endpoint_service.alarm_history import History
from deployments.local.endpoint_service.metrics import Bucket, MetricName, Metrics, Series
from deployments.local.endpoint_service.wire import Json

_PAUSE = 2.0  # wall seconds between writes
_LEVELS = ("hours", "minutes", "fine")
_MOST_BYTES = 64 << 20  # a longer file is written anew with what is still kept


class BadJournal(RuntimeError):
    """A line in the middle of the file is none of ours; the text says which."""


class Journal:
    """Writes and reads one file."""

    def __init__(self, path: Path, metrics: Metrics, history: History) -> None:
        self._path = path
        self._metrics = metrics
        self._history = history
        self._told = 0  # items of the history that are in the file

    def load(self) -> None:
        """Put everything back. A last line that a kill has torn is cut off.

        Raises:
            BadJournal: another line cannot be read. The file is not written to.
        """
        if not self._path.exists():
            return
        whole = self._path.read_bytes()
        ended = whole[: whole.rfind(b"\n") + 1]
        for number, text in enumerate(ended.splitlines(), 1):
            try:
                line = json.loads(text)
                if "item" in line:
                    self._history.put(line["when"], line["item"])
                else:
                    _put(self._metrics, line)
            except (ValueError, KeyError, TypeError) as error:
                what = f"{self._path}, line {number}: {type(error).__name__} {error}"
                raise BadJournal(f"{what}; move the file away to start without metrics") from error
        for _, _, series in self._metrics.all_series():
            series.fold()
        self._told = self._history.count
        if len(ended) < len(whole) or len(ended) > _MOST_BYTES:
            self._rewrite()

    async def follow(self) -> None:
        """Write what has come, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            self.write()

    def write(self) -> None:
        """Add what is new; nothing when nothing is."""
        lines = [json.dumps(line) for line in self._new()]
        if not lines:
            return
        with self._path.open("a") as file:
            file.write("\n".join(lines) + "\n")
            size = file.tell()
        if size > _MOST_BYTES:
            self._rewrite()

    def _new(self) -> Iterator[Json]:
        for name, unit, series in self._metrics.all_series():
            touched, series.touched = series.touched, set()
            for at in sorted(touched & series.fine.keys()):
                yield _line(name, unit, series, "fine", at)
        yield from self._items(self._history.count - self._told)
        self._told = self._history.count

    def _items(self, count: int) -> Iterator[Json]:
        for when, item in self._history.last(count):
            yield {"when": when, "item": item}

    def _rewrite(self) -> None:
        part = self._path.with_suffix(".part")
        with part.open("w") as file:
            for name, unit, series in self._metrics.all_series():
                series.touched.clear()
                for level in _LEVELS:
                    for at in getattr(series, level):
                        file.write(json.dumps(_line(name, unit, series, level, at)) + "\n")
            for line in self._items(self._history.count):
                file.write(json.dumps(line) + "\n")
        part.replace(self._path)


def _line(name: MetricName, unit: str, series: Series, level: str, at: int) -> Json:
    bucket: Bucket = getattr(series, level)[at]
    return {
        "metric": name,
        "unit": unit,
        "resolution": series.resolution,
        "level": level,
        "at": at,
        "samples": [bucket.count, bucket.total, bucket.low, bucket.high, bucket.binned, bucket.opaque],
        "values": list(bucket.values.items()),
    }


def _put(metrics: Metrics, line: Json) -> None:
    namespace, name, dims = line["metric"]
    known = (namespace, name, tuple((key, value) for key, value in dims))
    series = metrics.series(known, line["unit"], line["resolution"])
    count, total, low, high, binned, opaque = line["samples"]
    level = {"fine": series.fine, "minutes": series.minutes, "hours": series.hours}[line["level"]]
    level[line["at"]] = Bucket(count, total, low, high, dict(line["values"]), binned, opaque)
