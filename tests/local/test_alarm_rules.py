"""The alarm state as a function of its data points: the tables of the CloudWatch user guide, one row a case."""

from __future__ import annotations

import itertools
import math

import pytest

from deployments.local.endpoint_service.alarms import EXTRA_PERIODS, AlarmBook, verdict
from deployments.local.endpoint_service.metrics import EXACT_VALUES, Bucket, Metrics, dimensions

KEEP = "state now"
O, A, I = "OK", "ALARM", "INSUFFICIENT_DATA"  # noqa: E741
POINT = {"0": False, "X": True, "-": None}

# data points oldest first, M of N; states for missing, ignore, breaching, notBreaching
TABLE = [
    ("0-X-X", 3, 3, (O, O, O, O)),
    ("----0", 3, 3, (O, O, O, O)),
    ("-----", 3, 3, (I, KEEP, A, O)),
    ("0XX-X", 3, 3, (A, A, A, A)),
    ("--X--", 3, 3, (A, KEEP, A, O)),
    ("0-X-X", 2, 3, (A, A, A, A)),
    ("00X0X", 2, 3, (A, A, A, A)),
    ("0-X--", 2, 3, (O, O, A, O)),
    ("----0", 2, 3, (O, O, A, O)),
    ("---X-", 2, 3, (A, KEEP, A, O)),
    ("----X", 2, 3, (KEEP, KEEP, A, O)),  # one point alone must not alarm early
    ("00X", 1, 1, (A, A, A, A)),
    ("X00", 1, 1, (O, O, O, O)),
    ("---", 1, 1, (I, KEEP, A, O)),
]
CASES = [
    (points, needed, periods, missing, state)
    for points, needed, periods, states in TABLE
    for missing, state in zip(("missing", "ignore", "breaching", "notBreaching"), states, strict=True)
]


@pytest.mark.parametrize(("points", "needed", "periods", "missing", "state"), CASES)
def test_documented_rows(points: str, needed: int, periods: int, missing: str, state: str) -> None:
    assert len(points) == periods + EXTRA_PERIODS
    for current in (O, A, I):
        wanted = current if state == KEEP else state
        assert verdict([POINT[p] for p in points], periods, needed, missing, current) == wanted


def test_m_of_n_without_gaps_is_a_count() -> None:
    for window in itertools.product([False, True], repeat=3):
        for needed in (1, 2, 3):
            state = verdict([False, False, *window], 3, needed, "missing", I)
            assert state == (A if sum(window) >= needed else O)


def test_an_alarm_is_evaluated_once_a_minute_and_catches_up() -> None:
    metrics = Metrics()
    book = AlarmBook(metrics)
    name = ("AWS/SageMaker", "Invocation5XXErrors", dimensions({"EndpointName": "e"}))
    request = {"Period": 60, "EvaluationPeriods": 2, "Threshold": 0.1, "Statistic": "Average"}
    book.put("a", "arn", request | {"ComparisonOperator": "GreaterThanThreshold"}, name, now=600.0)
    assert book.alarms["a"].state == I
    for when in (605.0, 665.0):
        metrics.series(name).bucket(when).add(1.0)
    book.evaluate_due(659.0)
    assert book.alarms["a"].state == I  # the first period is not over
    book.evaluate_due(725.0)  # two evaluations were due
    assert book.alarms["a"].state == A
    assert book.alarms["a"].since == 720.0
    for when in (725.0, 785.0):
        metrics.series(name).bucket(when).add(0.0)
    book.evaluate_due(845.0)
    assert book.alarms["a"].state == O


def test_percentiles_interpolate_and_stay_within_half_a_percent_when_binned() -> None:
    few, many = Bucket(), Bucket()
    for value in range(1, 101):
        few.add(float(value))
    assert few.statistic("p50") == pytest.approx(50.5)
    assert few.statistic("p99") == pytest.approx(99.01)
    for value in range(1, 20_001):
        many.add(float(value))
    assert len(many.values) < 20 * EXACT_VALUES
    for percent in (1, 50, 90, 99.9):
        assert many.statistic(f"p{percent}") == pytest.approx(1 + percent / 100 * 19_999, rel=0.006)
    assert many.statistic("Maximum") == 20_000
    assert many.statistic("Sum") == math.fsum(range(1, 20_001))


def test_merging_buckets_is_adding_their_samples() -> None:
    one, two, both = Bucket(), Bucket(), Bucket()
    for value in range(300):
        (one if value % 3 else two).add(float(value % 7))
        both.add(float(value % 7))
    one.merge(two)
    assert one == both


def test_a_series_keeps_its_sums_when_it_folds_old_buckets() -> None:
    series = Metrics().series(("n", "m", ()), resolution=10)
    for second in range(0, 40_000, 10):
        series.bucket(float(second)).add(1.0)
    assert len(series.fine) <= 1_081
    assert sum(bucket.count for _, bucket in series.between(0, 40_000)) == 4_000
    assert sum(bucket.count for _, bucket in series.between(600, 660)) == 6
    for second in range(40_000, 400_000, 10):
        series.bucket(float(second)).add(1.0)
    assert len(series.fine) + len(series.minutes) + len(series.hours) <= 1_081 + 1_440 + 111
    assert sum(bucket.count for _, bucket in series.between(0, 400_000)) == 40_000
