"""The CloudWatch operations: metrics and metric alarms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from deployments.local.endpoint_service.alarms import ACTIONS, COMPARISONS, AlarmBook, describe
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.extended import BadStatistic, parse
from deployments.local.endpoint_service.metrics import STATISTICS, Bucket, MetricName, Metrics, dimensions
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.wire import AwsError, Json, epoch, not_implemented, timestamp

_PAST, _FUTURE = 14 * 86_400, 2 * 3_600  # how far from now a sample may lie, seconds
_DATAPOINTS = 1_440
_ALARM_MISSING = (
    "Metrics",
    "ThresholdMetricId",
    "EvaluationWindow",
    "WarmUpConfiguration",
    "EvaluationCriteria",
    "EvaluationInterval",
    "ActionConfiguration",
    "EvaluateLowSampleCountPercentile",
)
_SCALING_POLICY = re.compile(r"arn:aws:autoscaling:[^:]+:\d{12}:scalingPolicy:[^:]+:resource/sagemaker/endpoint/.+")
_SHORT = (1, 5, 10, 20, 30)  # periods below a minute


def bad_value(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message, query_code="InvalidParameterValue")


def bad_combination(message: str) -> AwsError:
    return AwsError("InvalidParameterCombinationException", message, query_code="InvalidParameterCombination")


def missing(name: str) -> AwsError:
    message = f"The parameter {name} is required."
    return AwsError("MissingRequiredParameterException", message, query_code="MissingParameter")


class CloudWatch:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, clock: Clock, metrics: Metrics, alarms: AlarmBook, arn: Callable[[str], str]) -> None:
        self._clock = clock
        self._metrics = metrics
        self._alarms = alarms
        self._arn = arn  # "alarm:name" -> the ARN
        self.operations: dict[str, Callable[[Json], Json]] = {
            "PutMetricData": self.put_metric_data,
            "GetMetricStatistics": self.get_metric_statistics,
            "GetMetricData": self.get_metric_data,
            "ListMetrics": self.list_metrics,
            "PutMetricAlarm": self.put_metric_alarm,
            "DescribeAlarms": self.describe_alarms,
            "DeleteAlarms": self.delete_alarms,
            "SetAlarmState": self.set_alarm_state,
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
        start, end, period = _range(request, int(request["Period"]))
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
        _check_statistics(queries)
        read: dict[object, dict[float, Bucket]] = {}
        results = [self._query(query, request, read) for query in queries if query.get("ReturnData", True)]
        return {"MetricDataResults": results, "Messages": []}

    def _query(self, query: Json, request: Json, read: dict[object, dict[float, Bucket]]) -> Json:
        """``read`` holds what this request has read already: a histogram is many statistics of one metric."""
        if query.get("Expression") or "MetricStat" not in query:
            raise not_implemented("GetMetricData: metric math (Expression)", "Ask for a MetricStat.")
        stat = query["MetricStat"]
        start, end, period = _range(request, int(stat["Period"]))
        name = metric_name(stat["Metric"].get("Namespace", ""), stat["Metric"])
        key = name, start, end, period, stat.get("Unit")
        if key not in read:
            read[key] = self._metrics.periods(*key)
        buckets = read[key]
        pairs = [(at, value) for at, b in buckets.items() if (value := b.statistic(stat["Stat"])) is not None]
        if request.get("ScanBy", "TimestampDescending") == "TimestampDescending":
            pairs.reverse()
        return {
            "Id": query["Id"],
            "Label": query.get("Label", name[1]),
            "Timestamps": [epoch(at) for at, _ in pairs],
            "Values": [value for _, value in pairs],
            "StatusCode": "Complete",
        }

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

    def put_metric_alarm(self, request: Json) -> Json:
        check_alarm(request)
        name = request["AlarmName"]
        metric = metric_name(request["Namespace"], request)
        self._alarms.put(name, self._arn(f"alarm:{name}"), request, metric, self._clock.now())
        return {}

    def describe_alarms(self, request: Json) -> Json:
        for name in ("ChildrenOfAlarmName", "ParentsOfAlarmName", "ActionPrefix"):
            if request.get(name):
                raise not_implemented(f"DescribeAlarms.{name}")
        self._alarms.evaluate_due(self._clock.now())
        items, token = page(list(self._matching(request)), request.get("NextToken"), request.get("MaxRecords", 50))
        return {"MetricAlarms": items, "CompositeAlarms": []} | token

    def _matching(self, request: Json) -> Iterator[Json]:
        if "MetricAlarm" not in request.get("AlarmTypes", ["MetricAlarm"]):
            return
        for name, alarm in sorted(self._alarms.alarms.items()):
            named = not request.get("AlarmNames") or name in request["AlarmNames"]
            named = named and name.startswith(request.get("AlarmNamePrefix", ""))
            if named and request.get("StateValue", alarm.state) == alarm.state:
                yield describe(alarm)

    def delete_alarms(self, request: Json) -> Json:
        if unknown := self._alarms.unknown(request["AlarmNames"]):
            message = f"Unknown alarm(s): {', '.join(unknown)}. No alarm was deleted."
            raise AwsError("ResourceNotFound", message, status=404, query_code="ResourceNotFound")
        for name in request["AlarmNames"]:
            self._alarms.alarms.pop(name, None)
        return {}

    def set_alarm_state(self, request: Json) -> Json:
        alarm = self._alarms.alarms.get(request["AlarmName"])
        if alarm is None:
            raise AwsError("ResourceNotFound", "Unknown alarm", status=404, query_code="ResourceNotFound")
        now = self._clock.now()
        alarm.turn(request["StateValue"], request["StateReason"], now, request.get("StateReasonData", ""))
        self._alarms.act(alarm)
        alarm.checked = now // alarm.step * alarm.step  # holds until the next evaluation, as on AWS
        return {}


def metric_name(namespace: str, request: Json) -> MetricName:
    given: dict[str, str] = {d["Name"]: d["Value"] for d in request.get("Dimensions") or []}
    return namespace, request.get("MetricName", ""), dimensions(given)


def known_statistic(name: str, extended_only: bool = False) -> bool:
    """Whether CloudWatch has it; the five simple ones are asked for under another member where ``extended_only``."""
    if name in STATISTICS:
        return not extended_only
    try:
        parse(name)
    except BadStatistic:
        return False
    return True


def _check_statistics(queries: list[Json]) -> None:
    """Every wrong statistic is named at once, as AWS does."""
    asked = [(number, query["MetricStat"]["Stat"]) for number, query in enumerate(queries, 1) if "MetricStat" in query]
    wrong = [
        f"The value {name} for parameter MetricDataQueries.member.{number}.MetricStat.Stat is not a valid statistic."
        for number, name in asked
        if not known_statistic(name)
    ]
    if wrong:
        raise AwsError("ValidationError", "\n".join(wrong))


def _range(request: Json, period: int) -> tuple[float, float, int]:
    start, end = timestamp(request["StartTime"]), timestamp(request["EndTime"])
    if start >= end:
        raise bad_value("The parameter StartTime must be less than the parameter EndTime.")
    if period not in _SHORT and period % 60:
        raise bad_value("The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
    return start, end, period


def check_alarm(request: Json) -> None:
    """The rules between PutMetricAlarm's members. Whatever could not be honoured is refused."""
    for name in _ALARM_MISSING:
        if request.get(name):
            raise not_implemented(f"PutMetricAlarm.{name}")
    for kind in ACTIONS.values():
        if other := [action for action in request.get(kind) or [] if not _SCALING_POLICY.fullmatch(action)]:
            raise not_implemented(
                f"PutMetricAlarm.{kind}: {other[0]}", "Scaling policies of endpoint variants are run."
            )
    for name in ("MetricName", "Namespace", "Period", "EvaluationPeriods", "ComparisonOperator", "Threshold"):
        if request.get(name) is None:
            raise missing(name)
    if bool(request.get("Statistic")) == bool(request.get("ExtendedStatistic")):
        raise bad_combination("Exactly one of Statistic and ExtendedStatistic must be given.")
    if (wanted := request.get("ExtendedStatistic")) and not known_statistic(wanted, extended_only=True):
        raise AwsError("ValidationError", f"The value {wanted} for parameter ExtendedStatistic is not valid.")
    if request["ComparisonOperator"] not in COMPARISONS:
        raise not_implemented(f"PutMetricAlarm: {request['ComparisonOperator']}", "Anomaly detection is not here.")
    if request.get("TreatMissingData", "missing") not in ("breaching", "notBreaching", "ignore", "missing"):
        raise bad_value(f"Unknown TreatMissingData {request['TreatMissingData']!r}.")
    period, periods = request["Period"], request["EvaluationPeriods"]
    if period not in (10, 20, 30) and period % 60:
        raise bad_value("The parameter Period must be 10, 20, 30 or a multiple of 60.")
    if request.get("DatapointsToAlarm", 1) > periods:
        raise bad_combination("DatapointsToAlarm must not be greater than EvaluationPeriods.")
    if period * periods > (86_400 if period < 3_600 else 604_800):
        raise bad_combination("EvaluationPeriods * Period must not exceed a day (seven days from a Period of an hour).")
