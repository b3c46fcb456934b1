"""The CloudWatch operations on alarms: metric alarms, with metric math or without, and composite ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from deployments.local.endpoint_service import composite
from deployments.local.endpoint_service.alarms import ACTIONS, COMPARISONS, KIND, Alarm, AlarmBook, describe
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.composite import Composite
from deployments.local.endpoint_service.metric_queries import (
    Evaluation,
    bad_combination,
    bad_value,
    check,
    known_statistic,
    metric_name,
    missing,
    refused,
)
from deployments.local.endpoint_service.metrics import Metrics
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

_MISSING = (
    "ThresholdMetricId",
    "EvaluationWindow",
    "WarmUpConfiguration",
    "EvaluationCriteria",
    "EvaluationInterval",
    "ActionConfiguration",
)
_OF_ONE_METRIC = ("MetricName", "Namespace", "Dimensions", "Period", "Unit", "Statistic", "ExtendedStatistic")
_QUERIES = 20  # of one alarm: ten metrics, and expressions on them
_SCALING_POLICY = re.compile(r"arn:aws:autoscaling:[^:]+:\d{12}:scalingPolicy:[^:]+:resource/sagemaker/endpoint/.+")


class Alarms:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, clock: Clock, metrics: Metrics, book: AlarmBook, arn: Callable[[str], str]) -> None:
        self._clock = clock
        self._metrics = metrics
        self._book = book
        self._arn = arn  # "alarm:name" -> the ARN
        self.operations: dict[str, Callable[[Json], Json]] = {
            "PutMetricAlarm": self.put_metric_alarm,
            "PutCompositeAlarm": self.put_composite_alarm,
            "DescribeAlarms": self.describe_alarms,
            "DescribeAlarmsForMetric": self.describe_alarms_for_metric,
            "DescribeAlarmHistory": self.describe_alarm_history,
            "DeleteAlarms": self.delete_alarms,
            "SetAlarmState": self.set_alarm_state,
            "EnableAlarmActions": lambda request: self._switch(request, True),
            "DisableAlarmActions": lambda request: self._switch(request, False),
        }

    def put_metric_alarm(self, request: Json) -> Json:
        check_alarm(request)
        name, now = request["AlarmName"], self._clock.now()
        if name in self._book.composites:
            raise refused(f"A composite alarm with the name {name} exists.")
        if request.get("Metrics"):
            self._check_math(request, now)
        metric = metric_name(request.get("Namespace", ""), request)
        self._book.put(name, self._arn(f"alarm:{name}"), request, metric, now)
        return {}

    def _check_math(self, request: Json, now: float) -> None:
        """One query is returned, and has one time series. A few periods are evaluated to see what comes."""
        queries = check(request["Metrics"])
        if len(queries.returned) != 1:
            raise refused("Exactly one element of the metrics list should return data.")
        name = queries.returned[0]
        period = queries.period(name)
        _check_period(period, request["EvaluationPeriods"])
        if name in queries.trees and "METRICS" in queries.trees[name].calls():
            return  # how many series there are is seen at every evaluation
        found = Evaluation(self._metrics, queries, now // 60 * 60 - period, now // 60 * 60, anchored=True).results(name)
        if len(found) != 1:
            raise refused(f"Error in expression '{name}': an alarm needs a single time series, not {len(found)}.")

    def put_composite_alarm(self, request: Json) -> Json:
        for member in ("ActionsSuppressor", "ActionConfiguration"):
            if request.get(member):
                raise not_implemented(f"PutCompositeAlarm.{member}")
        for kind in ACTIONS.values():
            if request.get(kind):
                raise not_implemented(f"PutCompositeAlarm.{kind}: {request[kind][0]}")
        name, now = request["AlarmName"], self._clock.now()
        _, children = composite.read(request["AlarmRule"])
        if name in self._book.alarms:
            raise refused(f"A metric alarm with the name {name} exists.")
        if unknown := self._book.unknown([child for child in children if child != name]):
            raise refused(f"Could not save the composite alarm as alarms [{', '.join(unknown)}] do not exist.")
        self._check_cycle(name, children, (name,))
        found = self._book.composites.get(name)
        if found is None:
            log = self._book.history
            found = Composite(name, self._arn(f"alarm:{name}"), request, now, log, since=now)
            self._book.composites[name] = found
            log.configuration(name, composite.KIND, now, "Create", found.describe())
        else:
            found.configure(request)
            found.updated = now
            self._book.history.configuration(name, composite.KIND, now, "Update", found.describe())
        return {}

    def _check_cycle(self, name: str, children: list[str], path: tuple[str, ...]) -> None:
        for child in children:
            if child == name:
                raise refused(f"The alarm rule leads back to itself: {' → '.join((*path, child))}.")
            if child in self._book.composites and child not in path:
                self._check_cycle(name, self._book.composites[child].children, (*path, child))

    def describe_alarms(self, request: Json) -> Json:
        for name in ("ChildrenOfAlarmName", "ParentsOfAlarmName"):
            if request.get(name):
                raise not_implemented(f"DescribeAlarms.{name}")
        if request.get("AlarmNames") and request.get("AlarmNamePrefix"):
            raise bad_combination("AlarmNames and AlarmNamePrefix must not be given together.")
        self._book.evaluate_due(self._clock.now())
        items, token = page(list(self._matching(request)), request.get("NextToken"), request.get("MaxRecords", 50))
        return {
            "MetricAlarms": [describe(alarm) for alarm in items if isinstance(alarm, Alarm)],
            "CompositeAlarms": [alarm.describe() for alarm in items if isinstance(alarm, Composite)],
        } | token

    def _matching(self, request: Json) -> Iterator[Alarm | Composite]:
        kinds, names = request.get("AlarmTypes") or [KIND], request.get("AlarmNames")
        prefix, action = request.get("AlarmNamePrefix", ""), request.get("ActionPrefix")
        every: dict[str, Alarm | Composite] = {}
        every |= self._book.alarms if KIND in kinds else {}
        every |= self._book.composites if composite.KIND in kinds else {}
        for name, alarm in sorted(every.items()):
            if (names and name not in names) or not name.startswith(prefix):
                continue
            actions = [one for kind in ACTIONS.values() for one in alarm.request.get(kind) or []]
            if action and not any(one.startswith(action) for one in actions):
                continue
            if request.get("StateValue", alarm.state) == alarm.state:
                yield alarm

    def describe_alarms_for_metric(self, request: Json) -> Json:
        """Alarms on exactly this metric; not those with metric math, and no composite ones, as on AWS."""
        self._book.evaluate_due(self._clock.now())
        wanted = metric_name(request["Namespace"], request)
        filters = ("Statistic", "ExtendedStatistic", "Period", "Unit")
        found = [
            describe(alarm)
            for _, alarm in sorted(self._book.alarms.items())
            if alarm.queries is None
            and alarm.metric == wanted
            and all(request.get(key) in (None, alarm.request.get(key)) for key in filters)
        ]
        return {"MetricAlarms": found}

    def describe_alarm_history(self, request: Json) -> Json:
        if request.get("AlarmContributorId"):
            raise not_implemented("DescribeAlarmHistory.AlarmContributorId")
        self._book.evaluate_due(self._clock.now())
        return self._book.history.describe(request)

    def delete_alarms(self, request: Json) -> Json:
        if unknown := self._book.unknown(request["AlarmNames"]):
            message = f"Unknown alarm(s): {', '.join(unknown)}. No alarm was deleted."
            raise AwsError("ResourceNotFound", message, status=404, query_code="ResourceNotFound")
        now, history = self._clock.now(), self._book.history
        for name in request["AlarmNames"]:
            if alarm := self._book.alarms.pop(name, None):
                history.configuration(name, KIND, now, "Delete", describe(alarm))
            if found := self._book.composites.pop(name, None):
                history.configuration(name, composite.KIND, now, "Delete", found.describe())
        return {}

    def set_alarm_state(self, request: Json) -> Json:
        name, now = request["AlarmName"], self._clock.now()
        alarm = self._book.alarms.get(name) or self._book.composites.get(name)
        if alarm is None:
            raise AwsError("ResourceNotFound", "Unknown alarm", status=404, query_code="ResourceNotFound")
        alarm.turn(request["StateValue"], request["StateReason"], now, request.get("StateReasonData", ""))
        if isinstance(alarm, Alarm):
            self._book.act(alarm)
            alarm.checked = now // alarm.step * alarm.step  # holds until the next evaluation, as on AWS
        return {}

    def _switch(self, request: Json, enabled: bool) -> Json:
        """EnableAlarmActions and DisableAlarmActions; names that no alarm has are passed over, as on AWS."""
        now = self._clock.now()
        for name in request["AlarmNames"]:
            alarm = self._book.alarms.get(name) or self._book.composites.get(name)
            if alarm is None:
                continue
            alarm.request = alarm.request | {"ActionsEnabled": enabled}
            alarm.updated = now
            shown, kind = (describe(alarm), KIND) if isinstance(alarm, Alarm) else (alarm.describe(), composite.KIND)
            self._book.history.configuration(name, kind, now, "Update", shown)
        return {}


def check_alarm(request: Json) -> None:
    """The rules between PutMetricAlarm's members. Whatever could not be honoured is refused."""
    for name in _MISSING:
        if request.get(name):
            raise not_implemented(f"PutMetricAlarm.{name}")
    for kind in ACTIONS.values():
        if other := [action for action in request.get(kind) or [] if not _SCALING_POLICY.fullmatch(action)]:
            raise not_implemented(
                f"PutMetricAlarm.{kind}: {other[0]}", "Scaling policies of endpoint variants are run."
            )
    one_metric = () if request.get("Metrics") else ("MetricName", "Namespace", "Period")
    for name in (*one_metric, "EvaluationPeriods", "ComparisonOperator", "Threshold"):
        if request.get(name) is None:
            raise missing(name)
    if request["ComparisonOperator"] not in COMPARISONS:
        raise not_implemented(f"PutMetricAlarm: {request['ComparisonOperator']}", "Anomaly detection is not here.")
    if request.get("TreatMissingData", "missing") not in ("breaching", "notBreaching", "ignore", "missing"):
        raise bad_value(f"Unknown TreatMissingData {request['TreatMissingData']!r}.")
    if request.get("DatapointsToAlarm", 1) > request["EvaluationPeriods"]:
        raise bad_combination("DatapointsToAlarm must not be greater than EvaluationPeriods.")
    if request.get("Metrics"):
        if given := [name for name in _OF_ONE_METRIC if request.get(name)]:
            raise refused(f"Metrics list and {given[0]} cannot be specified together.")
        if len(request["Metrics"]) > _QUERIES:
            raise refused(f"The Metrics list must not have more than {_QUERIES} elements.")
        return
    _check_statistic(request)
    _check_period(request["Period"], request["EvaluationPeriods"])


def _check_statistic(request: Json) -> None:
    if bool(request.get("Statistic")) == bool(request.get("ExtendedStatistic")):
        raise bad_combination("Exactly one of Statistic and ExtendedStatistic must be given.")
    extended = request.get("ExtendedStatistic")
    if extended and not known_statistic(extended, extended_only=True):
        raise refused(f"The value {extended} for parameter ExtendedStatistic is not valid.")
    low = request.get("EvaluateLowSampleCountPercentile")
    if low not in (None, "evaluate", "ignore"):
        raise refused("Option for EvaluateLowSampleCountPercentile must be one of [evaluate, ignore].")
    if low and not (extended or "").startswith("p"):
        raise refused("EvaluateLowSampleCountPercentile is only allowed for alarms based on percentiles.")


def _check_period(period: int, periods: int) -> None:
    if period not in (10, 20, 30) and period % 60:
        raise bad_value("The parameter Period must be 10, 20, 30 or a multiple of 60.")
    if period * periods > (86_400 if period < 3_600 else 604_800):
        raise bad_combination("EvaluationPeriods * Period must not exceed a day (seven days from a Period of an hour).")
