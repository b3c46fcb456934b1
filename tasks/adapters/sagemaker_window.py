"""Two stretches of time of an endpoint's metrics, one after the other: two GetMetricData calls an observation.

The first asks for what is drawn and shown; from it the second knows where the latencies lie, and asks for their
histograms there (``sagemaker_metrics``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_alarms import INSTANCES
from tasks.adapters.sagemaker_metrics import Series, bounds, metric_queries, sum_of
from tasks.adapters.sagemaker_requests import NAMESPACE, dimensions
from tasks.monitoring_contracts import Load, Point, Windows

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDataQueryTypeDef

_POINTS = 120  # periods of one window, at most: enough for a picture, and one page of an answer
_LOADS = ("CPUUtilization", "GPUUtilization", "GPUMemoryUtilization", "MemoryUtilization", "DiskUtilization")
_SERIES = {
    "n": ("Invocations", "Sum"),
    "f": ("Invocation5XXErrors", "Sum"),
    "m": ("InvocationModelErrors", "Sum"),
    "c": ("Invocation4XXErrors", "Sum"),
    "median": ("ModelLatency", "p50"),
}


@dataclass(frozen=True)
class Span:
    """Whole periods, by the service's clock: before from ``since`` to ``middle``, current from there to ``until``."""

    since: float
    middle: float
    until: float
    period: int


def span(now: float, window_seconds: int) -> Span:
    """The newest window of whole periods, and the one before it. The running minute has not all its requests yet."""
    period = 60 * math.ceil(window_seconds / 60 / _POINTS)
    length = max(period, window_seconds // period * period)
    until = now // period * period
    return Span(until - 2 * length, until - length, until, period)


def read_windows(
    aws: Connection,
    endpoint: str,
    variant: str,
    config: str,
    when: Span,
    quantile: float,
    limit_ms: float | None,
    ratio: float,
) -> Windows:
    """What ``endpoint`` answered in both windows.

    Args:
        config: The one that serves now; its own metrics are the current window's, where CloudWatch has any.
        quantile: Of the latency, 0–1, that is compared.
        limit_ms: Where counts must be exact, or none.
        ratio: Where the current window's latency matters, as a multiple of the earlier one's.
    """
    every, own = dimensions(endpoint, None, variant), dimensions(endpoint, config, variant)
    queries = [
        *_queries("all", every, {**_SERIES, "tail": ("ModelLatency", _percentile(quantile))}, when.period),
        *_queries("own", own, {"n": _SERIES["n"]}, when.period),
        *_loads(every, when.period),
    ]
    found = _read(aws, queries, when)
    points = tuple(_points(found))
    near = {ms for ms in (_typical(points, when.since, when.middle), _typical(points, when.middle, when.until)) if ms}
    at = bounds(limit_ms or 1.0, *near, *(ms * ratio for ms in near))
    fleet = own if any(at >= when.middle and count for at, count in found["own_n"].items()) else every
    counted = _read(
        aws,
        [*metric_queries("new", fleet, at, when.period), *metric_queries("old", every, at, when.period)],
        when,
    )
    return Windows(
        since=when.since,
        middle=when.middle,
        until=when.until,
        period=when.period,
        current=sum_of("new", counted, when.middle, when.until, at),
        before=sum_of("old", counted, when.since, when.middle, at),
        points=points,
        loads=tuple(_busy(found, when.middle)),
    )


def _percentile(quantile: float) -> str:
    return f"p{100 * quantile:.10g}"


def _queries(
    side: str, dims: list[DimensionTypeDef], series: dict[str, tuple[str, str]], period: int, namespace: str = NAMESPACE
) -> list[MetricDataQueryTypeDef]:
    found: list[Any] = [
        {
            "Id": f"{side}_{name}",
            "MetricStat": {
                "Metric": {"Namespace": namespace, "MetricName": metric, "Dimensions": dims},
                "Period": period,
                "Stat": stat,
            },
        }
        for name, (metric, stat) in series.items()
    ]
    return found


def _loads(dims: list[DimensionTypeDef], period: int) -> Iterable[MetricDataQueryTypeDef]:
    for stat in ("Average", "Maximum"):
        series = {f"{stat}_{name}": (name, stat) for name in _LOADS}
        yield from _queries("load", dims, series, period, INSTANCES)


def _read(aws: Connection, queries: list[MetricDataQueryTypeDef], when: Span) -> dict[str, Series]:
    found: dict[str, Series] = {query["Id"]: {} for query in queries}
    for result in aws.pages(
        "cloudwatch", "GetMetricData", "MetricDataResults", MetricDataQueries=queries,
        StartTime=datetime.fromtimestamp(when.since, UTC), EndTime=datetime.fromtimestamp(when.until, UTC),
    ):  # fmt: skip
        times = (stamp.timestamp() for stamp in result["Timestamps"])
        found[result["Id"]] |= dict(zip(times, result["Values"], strict=True))
    return found


def _points(found: dict[str, Series]) -> Iterable[Point]:
    for at in sorted(found["all_n"]):
        values = {name: found[f"all_{name}"].get(at) for name in (*_SERIES, "tail")}
        requests = round(values["n"] or 0)
        errors = max(round(values["f"] or 0), round(values["m"] or 0) - round(values["c"] or 0))
        yield Point(
            at=at, requests=requests, errors=min(errors, requests),
            median_ms=_ms(values["median"]), tail_ms=_ms(values["tail"]),
        )  # fmt: skip


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1e3


def _typical(points: Sequence[Point], since: float, until: float) -> float | None:
    """The middle one of the periods' tails, which says where to look closely; each counts as often as it was asked."""
    tails = sorted(
        (point.tail_ms, point.requests) for point in points if since <= point.at < until and point.tail_ms is not None
    )
    half, seen = sum(requests for _, requests in tails) / 2, 0
    for tail, requests in tails:
        seen += requests
        if seen >= half:
            return tail
    return None


def _busy(found: dict[str, Series], since: float) -> Iterable[Load]:
    for name in _LOADS:
        average = [value for at, value in found[f"load_Average_{name}"].items() if at >= since]
        highest = [value for at, value in found[f"load_Maximum_{name}"].items() if at >= since]
        if average and highest:
            yield Load(metric=name, average=sum(average) / len(average), highest=max(highest))
