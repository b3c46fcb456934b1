"""MetricDataQueries: metrics and expressions on them, for GetMetricData and for alarms on metric math."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.local.endpoint_service.extended import BadStatistic
from deployments.local.endpoint_service.extended import parse as parse_statistic
from deployments.local.endpoint_service.math_functions import FUNCTIONS, MISSING, evaluate
from deployments.local.endpoint_service.metric_math import BadExpression, Frame, Node, Series, Value, parse
from deployments.local.endpoint_service.metrics import STATISTICS, Bucket, MetricName, Metrics, dimensions
from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

SHORT = (1, 5, 10, 20, 30)  # periods below a minute
_ID = re.compile(r"[a-z]\w*", re.ASCII)


def refused(message: str) -> AwsError:
    """What GetMetricData and PutMetricAlarm answer to queries that do not fit together."""
    return AwsError("ValidationError", message)


def bad_value(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message, query_code="InvalidParameterValue")


def bad_combination(message: str) -> AwsError:
    return AwsError("InvalidParameterCombinationException", message, query_code="InvalidParameterCombination")


def missing(name: str) -> AwsError:
    message = f"The parameter {name} is required."
    return AwsError("MissingRequiredParameterException", message, query_code="MissingParameter")


def metric_name(namespace: str, request: Json) -> MetricName:
    given: dict[str, str] = {d["Name"]: d["Value"] for d in request.get("Dimensions") or []}
    return namespace, request.get("MetricName", ""), dimensions(given)


def known_statistic(name: str, extended_only: bool = False) -> bool:
    """Whether CloudWatch has it; the five simple ones are asked for under another member where ``extended_only``."""
    if name in STATISTICS:
        return not extended_only
    try:
        parse_statistic(name)
    except BadStatistic:
        return False
    return True


@dataclass(frozen=True)
class Queries:
    """Queries that were checked, with their expressions' trees."""

    queries: Mapping[str, Json]
    trees: Mapping[str, Node]

    @property
    def returned(self) -> list[str]:
        return [name for name, query in self.queries.items() if query.get("ReturnData", True)]

    def period(self, name: str) -> int:
        """Seconds: a metric's own, or the longest of what an expression is made from."""
        query = self.queries[name]
        if "MetricStat" in query:
            return int(query["MetricStat"]["Period"])
        if query.get("Period"):
            return int(query["Period"])
        tree = self.trees[name]
        parts = {part for part in tree.names() if part in self.queries}
        if "METRICS" in tree.calls():
            parts |= {part for part, other in self.queries.items() if "MetricStat" in other}
        return max((self.period(part) for part in parts), default=60)


def check(queries: Sequence[Json]) -> Queries:
    """Queries by Id, in their order. Raises ValidationError naming what is wrong, 501 for what is not here."""
    found: dict[str, Json] = {}
    wrong: list[str] = []
    for number, query in enumerate(queries, 1):
        place, name = f"MetricDataQueries.member.{number}", query["Id"]
        if not _ID.fullmatch(name):
            wrong.append(f"The value {name} for parameter {place}.Id must match ^[a-z][a-zA-Z0-9_]*$.")
        if name in found:
            wrong.append(f"The values for parameter id in MetricDataQueries are not unique: {name}.")
        if bool(query.get("Expression")) == ("MetricStat" in query):
            wrong.append(f"The parameter {place} must have exactly one of MetricStat and Expression.")
        elif "MetricStat" in query:
            wrong += _wrong_metric(query["MetricStat"], place)
        found[name] = query
    if wrong:
        raise refused("\n".join(wrong))
    trees = {name: _tree(name, query["Expression"]) for name, query in found.items() if query.get("Expression")}
    checked = Queries(found, trees)
    for name in trees:
        _follow(checked, name, ())
    return checked


def _wrong_metric(stat: Json, place: str) -> list[str]:
    wrong = []
    if not known_statistic(stat["Stat"]):
        wrong.append(f"The value {stat['Stat']} for parameter {place}.MetricStat.Stat is not a valid statistic.")
    if stat["Period"] not in SHORT and stat["Period"] % 60:
        wrong.append(f"The parameter {place}.MetricStat.Period must be 1, 5, 10, 20, 30 or a multiple of 60.")
    return wrong


def _tree(name: str, text: str) -> Node:
    if re.match(r"\s*SELECT\s", text, re.IGNORECASE):
        raise not_implemented("Metrics Insights queries (SELECT)", "Ask for a MetricStat.")
    try:
        tree = parse(text)
    except BadExpression as error:
        raise refused(f"Error in expression '{name}': {error}") from error
    for function in sorted(tree.calls()):
        if function in MISSING:
            raise not_implemented(f"metric math function {function}")
        if function not in FUNCTIONS:
            raise refused(f"Error in expression '{name}': Unknown function {function}")
    return tree


def _follow(checked: Queries, name: str, path: tuple[str, ...]) -> None:
    """Every name in an expression exists, and none leads back to itself."""
    if name in path:
        raise refused(f"Error in expression '{path[0]}': it depends on itself ({' → '.join((*path, name))})")
    for part in sorted(checked.trees[name].names() - {"REPEAT", "LINEAR"}):
        if part not in checked.queries:
            raise refused(f"Error in expression '{name}': Unknown metric {part}")
        if part in checked.trees:
            _follow(checked, part, (*path, name))


class Evaluation:
    """The values of queries from ``start`` to before ``end``, each computed once.

    Periods are counted from ``start`` cut to the minute (or to the period, below a minute); with ``anchored`` from
    ``start`` itself, as an alarm's are.
    """

    def __init__(self, metrics: Metrics, queries: Queries, start: float, end: float, anchored: bool = False) -> None:
        self._metrics = metrics
        self._queries = queries
        self._start = start
        self._end = end
        self._anchored = anchored
        self._known: dict[str, Value] = {}
        # A histogram is many statistics of one metric: its periods are read once.
        self._read: dict[tuple[MetricName, int, str | None], dict[float, Bucket]] = {}

    def results(self, name: str) -> list[Series]:
        """The series of one query: several for an expression that makes an array. Raises ValidationError."""
        try:
            value = self._value(name)
        except BadExpression as error:
            raise refused(f"Error in expression '{name}': {error}") from error
        if isinstance(value, (float, str)):
            raise refused(f"Error in expression '{name}': the result is a scalar, not a time series.")
        return value if isinstance(value, list) else [value]

    def _value(self, name: str) -> Value:
        if name not in self._known:
            tree = self._queries.trees.get(name)
            self._known[name] = evaluate(tree, self._frame(name)) if tree else self._metric(name)
        return self._known[name]

    def _metric(self, name: str) -> Series:
        stat = self._queries.queries[name]["MetricStat"]
        metric = metric_name(stat["Metric"].get("Namespace", ""), stat["Metric"])
        period, unit = int(stat["Period"]), stat.get("Unit")
        if (metric, period, unit) not in self._read:
            self._read[metric, period, unit] = self._metrics.periods(
                metric, self._start, self._end, period, unit, cut=not self._anchored
            )
        buckets = self._read[metric, period, unit]
        found = {at: bucket.statistic(stat["Stat"]) for at, bucket in buckets.items()}
        return {at: value for at, value in found.items() if value is not None}

    def _frame(self, name: str) -> Frame:
        period = self._queries.period(name)
        step = 60 if period >= 60 else period
        start = self._start if self._anchored else self._start // step * step
        every = [key for key, query in self._queries.queries.items() if "MetricStat" in query]
        used = every if "METRICS" in self._queries.trees[name].calls() else []
        metrics = {key: self._metric(key) for key in used}
        periods = {key: self._queries.period(key) for key in self._queries.queries}
        return Frame(start, self._end, period, self._value, metrics, periods)
