"""The CloudWatch operations on metrics."""

from __future__ import annotations

import math
from collections.abc import Callable

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.metric_queries import (
    SHORT,
    Evaluation,
    bad_combination,
    bad_value,
    check,
    known_statistic,
    metric_name,
    missing,
)
from deployments.local.endpoint_service.metrics import Metrics
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.wire import Json, epoch, not_implemented, timestamp

_PAST, _FUTURE = 14 * 86_400, 2 * 3_600  # how far from now a sample may lie, seconds
_DATAPOINTS = 1_440
_MOST_DATAPOINTS = 100_800  # of one GetMetricData answer


class CloudWatch:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.operations: dict[str, Callable[[Json], Json]] = {
            "PutMetricData": self.put_metric_data,
            "GetMetricStatistics": self.get_metric_statistics,
            "GetMetricData": self.get_metric_data,
            "ListMetrics": self.list_metrics,
        }

    def put_metric_data(self, request: Json) -> Json:
        if request.get("EntityMetricData"):
            raise not_implemented("PutMetricData.EntityMetricData")
        data = request.get("MetricData") or []
        if not data:
            raise missing("MetricData")
        if len(data) > 1000:
            raise bad_value("The collection MetricData must not have a size greater than 1000.")
        if request["Namespace"].startswith("AWS/"):
            raise bad_value("The value AWS/ for parameter Namespace is invalid.")
        now = self._clock.now()
        for datum in data:  # all are checked before one is stored
            self._check_datum(datum, now)
        for datum in data:
            self._store(request["Namespace"], datum, now)
        return {}

    def _check_datum(self, datum: Json, now: float) -> None:
        given = [name for name in ("Value", "Values", "StatisticValues") if datum.get(name) is not None]
        if len(given) != 1:
            raise bad_combination("Exactly one of Value, Values and StatisticValues must be given for a datum.")
        if datum.get("StorageResolution", 60) not in (1, 60):
            raise bad_value("The parameter StorageResolution must be 1 or 60.")
        counts = datum.get("Counts")
        if counts is not None and len(counts) != len(datum.get("Values") or []):
            raise bad_combination("The parameters Values and Counts must have the same size.")
        if len(datum.get("Values") or []) > 150:
            raise bad_value("The collection Values must not have a size greater than 150.")
        when = timestamp(datum.get("Timestamp", now))
        if not now - _PAST <= when <= now + _FUTURE:
            raise bad_value(
                f"The parameter Timestamp must be within two weeks before and two hours after the service's time, "
                f"{now:.0f} (this service's clock may run fast; every answer's Date header has its time)."
            )
        numbers = [datum.get("Value", 0.0), *(datum.get("Values") or [])]
        if not all(math.isfinite(number) for number in numbers):
            raise bad_value("The parameter Value must be a finite number.")

    def _store(self, namespace: str, datum: Json, now: float) -> None:
        name = metric_name(namespace, datum)
        series = self._metrics.series(name, datum.get("Unit", "None"), datum.get("StorageResolution", 60))
        bucket = series.bucket(timestamp(datum.get("Timestamp", now)))
        if sets := datum.get("StatisticValues"):
            bucket.add_set(sets["SampleCount"], sets["Sum"], sets["Minimum"], sets["Maximum"])
            return
        values = datum["Values"] if datum.get("Values") is not None else [datum["Value"]]
        for value, count in zip(values, datum.get("Counts") or [1.0] * len(values), strict=True):
            bucket.add(float(value), float(count))

    def get_metric_statistics(self, request: Json) -> Json:
        (start, end), period = _range(request), int(request["Period"])
        if period not in SHORT and period % 60:
            raise bad_value("The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
        wanted, extended = request.get("Statistics") or [], request.get("ExtendedStatistics") or []
        if not wanted and not extended:
            raise missing("Statistics")
        if (end - start) / period > _DATAPOINTS:
            raise bad_combination(
                f"You have requested up to {math.ceil((end - start) / period)} datapoints, which exceeds the limit of "
                f"{_DATAPOINTS}. You may reduce the datapoints requested by increasing Period or shortening the range."
            )
        for number, statistic in enumerate(extended, 1):
            if not known_statistic(statistic, extended_only=True):
                raise bad_value(f"The value {statistic} for parameter ExtendedStatistics.member.{number} is not valid.")
        name = metric_name(request["Namespace"], request)
        unit = request.get("Unit") or next(iter(self._metrics.units(name)), "None")
        points: list[Json] = []
        for at, bucket in self._metrics.periods(name, start, end, period, request.get("Unit")).items():
            point: Json = {"Timestamp": epoch(at), "Unit": unit}
            point |= {statistic: bucket.statistic(statistic) for statistic in wanted}
            if extended:
                known = {statistic: bucket.statistic(statistic) for statistic in extended}
                point["ExtendedStatistics"] = {key: value for key, value in known.items() if value is not None}
            points.append(point)
        return {"Label": request["MetricName"], "Datapoints": points}

    def get_metric_data(self, request: Json) -> Json:
        queries = request["MetricDataQueries"]
        if len(queries) > 500:
            raise bad_value("The collection MetricDataQueries must not have a size greater than 500.")
        checked = check(queries)
        start, end = _range(request)
        evaluation = Evaluation(self._metrics, checked, start, end)
        found: list[Json] = []
        for name in checked.returned:
            query = checked.queries[name]
            label = query.get("Label", query["MetricStat"]["Metric"]["MetricName"] if "MetricStat" in query else name)
            if "${" in label:
                raise not_implemented("GetMetricData: dynamic labels", f"Label of {name}: {label}")
            several = evaluation.results(name)
            for number, series in enumerate(several, 1):
                shown = label if len(several) == 1 else f"{label} {number}"
                found.append({"Id": name, "Label": shown, "Series": series})
        return _paged(found, request, bool(checked.trees))

    def list_metrics(self, request: Json) -> Json:
        wanted = request.get("Dimensions") or []
        found = []
        for namespace, name, dims in self._metrics.names():
            known = dict(dims)
            fits = all(d["Name"] in known and d.get("Value", known[d["Name"]]) == known[d["Name"]] for d in wanted)
            if fits and request.get("Namespace", namespace) == namespace and request.get("MetricName", name) == name:
                shown = [{"Name": key, "Value": value} for key, value in dims]
                found.append({"Namespace": namespace, "MetricName": name, "Dimensions": shown})
        items, token = page(found, request.get("NextToken"), 500)
        return {"Metrics": items} | token


def _range(request: Json) -> tuple[float, float]:
    start, end = timestamp(request["StartTime"]), timestamp(request["EndTime"])
    if start >= end:
        raise bad_value("The parameter StartTime must be less than the parameter EndTime.")
    return start, end


def _paged(found: list[Json], request: Json, math: bool) -> Json:
    """At most MaxDatapoints in an answer, over all results. With metric math there are no pages, as on AWS."""
    newest_first = request.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    most = min(request.get("MaxDatapoints", _MOST_DATAPOINTS), _MOST_DATAPOINTS)
    points = [
        (number, at, value)
        for number, each in enumerate(found)
        for at, value in sorted(each["Series"].items(), reverse=newest_first)
    ]
    shown, token = (points, {}) if math else page(points, request.get("NextToken"), most)
    first = not request.get("NextToken")
    unfinished = {number for number, _, _ in points[points.index(shown[-1]) + 1 :]} if token else set()
    results = []
    for number, each in enumerate(found):
        own = [(at, value) for which, at, value in shown if which == number]
        if own or (first and not each["Series"]):
            results.append(
                {
                    "Id": each["Id"],
                    "Label": each["Label"],
                    "Timestamps": [epoch(at) for at, _ in own],
                    "Values": [value for _, value in own],
                    "StatusCode": "PartialData" if number in unfinished else "Complete",
                }
            )
    return {"MetricDataResults": results, "Messages": []} | token
