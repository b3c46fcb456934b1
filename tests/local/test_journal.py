"""Metrics and the alarms' history come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.local.endpoint_service import journal as module
from deployments.local.endpoint_service.alarm_history import History
from deployments.local.endpoint_service.journal import BadJournal, Journal
from deployments.local.endpoint_service.metrics import Dimensions, Metrics

WHERE: Dimensions = (("EndpointName", "e"), ("VariantName", "v"))
NAME = ("AWS/SageMaker", "ModelLatency", WHERE)


def filled(metrics: Metrics, first: int, minutes: int) -> None:
    for second in range(first, first + 60 * minutes, 10):
        for value in (second % 7 + 0.5, 3.0):
            metrics.series(NAME, "Microseconds", 10).bucket(second).add(value)


def answers(metrics: Metrics, end: int) -> list[object]:
    return [
        (start, bucket.count, *(bucket.statistic(name) for name in ("Sum", "Minimum", "Maximum", "p90", "PR(:4)")))
        for start, bucket in metrics.periods(NAME, 0, end, 300, "Microseconds").items()
    ]


def again(path: Path) -> tuple[Metrics, History, Journal]:
    metrics, history = Metrics(), History()
    made = Journal(path, metrics, history)
    made.load()
    return metrics, history, made


def test_all_that_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics, history = Metrics(), History()
    journal = Journal(path, metrics, history)
    for part in range(3):  # the last bucket of each is written to again after it was written down
        filled(metrics, 600 * part, 10)
        metrics.series(NAME, "Microseconds", 10).bucket(600 * part).add(99.0)
        history.configuration(f"alarm-{part}", "MetricAlarm", 600.0 * part, "Create", {})
        journal.write()
        metrics.series(NAME, "Microseconds", 10).bucket(600 * part).add(101.0)
    journal.write()
    size = path.stat().st_size
    journal.write()
    assert path.stat().st_size == size, "nothing new is nothing written"
    found, told, _ = again(path)
    assert answers(found, 1800) == answers(metrics, 1800) != []
    assert told.describe({}) == history.describe({})


def test_what_was_folded_stays_folded_when_the_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics, history = Metrics(), History()
    journal = Journal(path, metrics, history)
    for hour in range(12):
        filled(metrics, 3600 * hour, 60)
        journal.write()
    assert metrics.series(NAME, "Microseconds", 10).minutes, "old ones were folded"
    long, _, _ = again(path)
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    metrics.series(NAME, "Microseconds", 10).bucket(12 * 3600 - 1).add(1.0)
    journal.write()
    short, _, _ = again(path)
    assert answers(short, 12 * 3600) == answers(metrics, 12 * 3600)
    assert [row[:3] for row in answers(long, 11 * 3600)] == [row[:3] for row in answers(metrics, 11 * 3600)]  # type: ignore[index]


def test_a_torn_last_line_is_cut_off_and_another_bad_one_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics()
    filled(metrics, 0, 5)
    Journal(path, metrics, History()).write()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 100])
    found, _, journal = again(path)
    assert answers(found, 300) == answers(metrics, 300)
    filled(found, 300, 5)
    journal.write()
    assert answers(again(path)[0], 600) == answers(found, 600)

    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(BadJournal, match="line 1: KeyError 'metric'; move the file away"):
        again(path)
    assert path.read_bytes() == b"{}\n" + whole
