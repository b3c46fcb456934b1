"""What each version of a release has answered, from CloudWatch: one GetMetricData call a look.

Latency comes as a histogram: ``PR(:b)`` is the percentage of a minute's values at or below ``b`` ("CloudWatch
statistics definitions" in the CloudWatch user guide), so with the minute's sample count it is a count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_requests import NAMESPACE
from tasks.contracts import Answers

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDataQueryTypeDef

_POINTS = 600  # periods a look, so that every query of it stays within GetMetricData's 100,800 values
_SUMS = {"f": "Invocation5XXErrors", "c": "Invocation4XXErrors", "m": "InvocationModelErrors"}
_COARSE = [1.6**step for step in range(-5, 24)]  # milliseconds: 0.1 ms to 50 s
_FINE = [1.03**step for step in range(-10, 11)]  # 0.74 to 1.34 times where the quantile was last seen

_COUNTS = ("n", *_SUMS, "k")

Statistic = Literal["Sum", "SampleCount"]
Series = dict[float, float]  # value by the time its period starts


@dataclass(frozen=True)
class Look:
    """Both versions from the minute on in which the candidate first had traffic. ``since``: that minute, or none.

    Beside a baseline both have ``minutes``: the whole ones in which both answered. Totals have the others too.
    """

    candidate: Answers
    baseline: Answers | None
    since: float | None


def requests_of(asynchronous: bool) -> tuple[str, Statistic]:
    """(metric, statistic) that counts requests. Asynchronous endpoints publish no Invocations; of the 5xx metric, which
    they do publish, every request is one sample, 0 or 1 ("Monitor asynchronous endpoint" in the developer guide).
    """
    return ("Invocation5XXErrors", "SampleCount") if asynchronous else ("Invocations", "Sum")


def bounds(limit_ms: float, *near_ms: float) -> tuple[float, ...]:
    """Bounds of a histogram in milliseconds: over everything a model may take, close together around some values, and
    a limit of which the count must be exact.
    """
    fine = [near * factor for near in near_ms for factor in _FINE]
    microseconds = sorted({max(1, round(1000 * bound)) for bound in (*_COARSE, *fine, limit_ms)})
    return tuple(bound / 1000 for bound in microseconds)


def look(
    aws: Connection,
    candidate: list[DimensionTypeDef],
    baseline: list[DimensionTypeDef] | None,
    since: float,
    now: float,
    limits_ms: Sequence[float],
    baseline_limits_ms: Sequence[float],
    asynchronous: bool = False,
) -> Look:
    """Count what both have answered.

    Args:
        candidate, baseline: Dimensions of the metrics; none where no old version stands beside it.
        since, now: Seconds since 1970 by the service's clock.
        limits_ms, baseline_limits_ms: Bounds of their histograms.
    """
    # The first whole minute: an earlier trial's challenger, or an earlier try of this config, may have had this one.
    start = math.ceil(since / 60) * 60
    period = 60 * math.ceil(max(60.0, now - start) / 60 / _POINTS)
    queries = list(metric_queries("new", candidate, limits_ms, period, asynchronous))
    if baseline:
        queries += metric_queries("old", baseline, baseline_limits_ms, period, asynchronous)
    found: dict[str, Series] = {query["Id"]: {} for query in queries}
    for result in aws.pages(
        "cloudwatch", "GetMetricData", "MetricDataResults", MetricDataQueries=queries,
        StartTime=datetime.fromtimestamp(start, UTC), EndTime=datetime.fromtimestamp(max(now, start + 60), UTC),
    ):  # fmt: skip
        times = (stamp.timestamp() for stamp in result["Timestamps"])
        found[result["Id"]] |= dict(zip(times, result["Values"], strict=True))
    first = min((at for at, count in found["new_n"].items() if count), default=None)
    if first is None:
        return Look(Answers(), Answers() if baseline else None, None)
    mine = sum_of("new", found, first, math.inf, limits_ms)
    if not baseline:
        return Look(mine, None, first)
    base = sum_of("old", found, first, math.inf, baseline_limits_ms)
    # The running minute has not all of its requests yet: only whole ones say how the traffic was split.
    both = [
        at for at, count in sorted(found["new_n"].items()) if count and found["old_n"].get(at) and at + period <= now
    ]
    mine, base = (
        whole.model_copy(update={"minutes": tuple(_minute(side, found, at, limits) for at in both)})
        for whole, side, limits in ((mine, "new", limits_ms), (base, "old", baseline_limits_ms))
    )
    return Look(mine, base, first)


def metric_queries(
    side: str,
    dims: list[DimensionTypeDef],
    limits_ms: Sequence[float],
    period: int,
    asynchronous: bool = False,
) -> Iterator[MetricDataQueryTypeDef]:
    """Counts and the latency's histogram of one side; ``side`` begins the queries' ids."""

    def query(name: str, metric: str, statistic: str) -> MetricDataQueryTypeDef:
        stat: Any = {
            "Metric": {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": dims},
            "Period": period,
            "Stat": statistic,
        }
        return {"Id": f"{side}_{name}", "MetricStat": stat}

    yield query("n", *requests_of(asynchronous))
    for name, metric in _SUMS.items():
        yield query(name, metric, "Sum")
    yield query("k", "ModelLatency", "SampleCount")
    for index, limit in enumerate(limits_ms):
        yield query(f"p{index}", "ModelLatency", f"PR(:{round(1000 * limit)})")


def sum_of(side: str, found: dict[str, Series], first: float, end: float, limits_ms: Sequence[float]) -> Answers:
    """What the queries of ``metric_queries`` brought, from ``first`` to before ``end``, added up."""
    times = {at for name in _COUNTS for at in found[f"{side}_{name}"] if first <= at < end}
    each = [_minute(side, found, at, limits_ms) for at in sorted(times)]
    return Answers(
        requests=sum(one.requests for one in each),
        errors=sum(one.errors for one in each),
        client_errors=sum(one.client_errors for one in each),
        bounds=tuple(limits_ms),
        at_or_below=tuple(map(sum, zip(*(one.at_or_below for one in each), strict=True)))
        if each
        else (0.0,) * len(limits_ms),
        timed=sum(one.timed for one in each),
    )


def _minute(side: str, found: dict[str, Series], at: float, limits_ms: Sequence[float]) -> Answers:
    """One period."""

    def value(name: str) -> float:
        return found[f"{side}_{name}"].get(at, 0.0)

    requests, timed = round(value("n")), round(value("k"))
    counts = [float(round(value(f"p{index}") / 100 * timed)) for index in range(len(limits_ms))]
    ascending = all(low <= high for low, high in pairwise(counts))
    # ModelErrors also has requests that got no answer at all, and 4xx, which have a rule of their own.
    errors = max(round(value("f")), round(value("m")) - round(value("c")))
    return Answers(
        requests=requests,
        errors=min(errors, requests),
        client_errors=min(round(value("c")), requests),
        bounds=tuple(limits_ms),
        at_or_below=tuple(counts if ascending else sorted(counts)),
        timed=timed,
    )
