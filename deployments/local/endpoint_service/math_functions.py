"""The functions of metric math, and the value of an expression."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

from deployments.local.endpoint_service.math_operators import (
    OPERATORS,
    as_list,
    combine,
    number_of,
    pointwise,
    series_of,
)
from deployments.local.endpoint_service.metric_math import BadExpression, Frame, Node, Series, Value
from deployments.local.endpoint_service.wire import not_implemented

# Functions of AWS that are not here: they are named in a 501, and not called unknown.
MISSING = frozenset(
    (
        *("ANOMALY_DETECTION_BAND", "DAY", "DATE", "MONTH", "YEAR", "EPOCH", "HOUR", "MINUTE", "DB_PERF_INSIGHTS"),
        *("INSIGHT_RULE_METRIC", "LAMBDA", "SEARCH", "SERVICE_QUOTA", "SORT"),
    )
)


_POINTWISE: dict[str, Callable[[float], float]] = {
    "ABS": abs,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
    "LOG": math.log,
    "LOG10": math.log10,
}
_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "SUM": math.fsum,
    "AVG": statistics.fmean,
    "MIN": min,
    "MAX": max,
    "STDDEV": statistics.pstdev,
}


def evaluate(node: Node, frame: Frame) -> Value:
    """The value of an expression. Raises ``BadExpression``, and 501 for functions of AWS that are not here."""
    if node.kind in ("number", "text"):
        value: Value = node.value
        return value
    if node.kind == "name":
        return node.value if node.value in ("REPEAT", "LINEAR") else frame.series(node.value)
    if node.kind == "call":
        return _call(node.value, node.parts, frame)
    parts = [evaluate(part, frame) for part in node.parts]
    if node.kind == "list":
        return [each for part in parts for each in as_list(part)]
    if node.kind == "negative":
        return pointwise(operator.neg, parts[0])
    return combine(OPERATORS[node.kind], parts[0], parts[1])


def _call(name: str, arguments: tuple[Node, ...], frame: Frame) -> Value:
    if name in MISSING:
        raise not_implemented(f"metric math function {name}")
    if name not in FUNCTIONS:
        raise BadExpression(f"Unknown function {name}")
    function, least, most = FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise BadExpression(f"{name} takes {least}{f' to {most}' if most != least else ''} arguments")
    if name == "PERIOD":  # of the metric, not of its values
        return float(frame.periods.get(str(arguments[0].value), frame.period))
    return function(frame, *(evaluate(argument, frame) for argument in arguments))


def _reduction(function: Callable[[Sequence[float]], float]) -> Callable[..., Value]:
    def reduce(frame: Frame, value: Value) -> Value:
        """A number from one series, a series from several."""
        if isinstance(value, list):
            times = sorted({at for each in value for at in each})
            return {at: float(function([each[at] for each in value if at in each])) for at in times}
        points = list(series_of(value).values())
        return float(function(points)) if points else 0.0

    return reduce


def _each(function: Callable[[Frame, Series], Series]) -> Callable[..., Value]:
    def apply(frame: Frame, value: Value) -> Value:
        if isinstance(value, list):
            return [function(frame, each) for each in value]
        return function(frame, series_of(value))

    return apply


def _diff(frame: Frame, series: Series) -> Series:
    return {later: series[later] - series[earlier] for earlier, later in pairwise(sorted(series))}


def _rate(frame: Frame, series: Series) -> Series:
    return {later: (series[later] - series[earlier]) / (later - earlier) for earlier, later in pairwise(sorted(series))}


def _running_sum(frame: Frame, series: Series) -> Series:
    found, total = {}, 0.0
    for at in sorted(series):
        total += series[at]
        found[at] = total
    return found


def _fill(frame: Frame, value: Value, filler: Value) -> Value:
    """Missing points: a number, another series' points, the point before (REPEAT), or a line between two (LINEAR)."""
    if isinstance(value, list):
        return [series_of(_fill(frame, each, filler)) for each in value]
    series, found = series_of(value), {}
    known = sorted(series)
    for at in frame.times:
        before, after = [t for t in known if t < at], [t for t in known if t > at]
        if at in series:
            found[at] = series[at]
        elif isinstance(filler, dict):
            if at in filler:
                found[at] = filler[at]
        elif filler == "REPEAT":
            if before:
                found[at] = series[before[-1]]
        elif filler == "LINEAR":
            if before and after:
                share = (at - before[-1]) / (after[0] - before[-1])
                found[at] = series[before[-1]] + share * (series[after[0]] - series[before[-1]])
        elif isinstance(filler, float):
            found[at] = filler
        else:
            raise BadExpression("FILL takes a number, a time series, REPEAT or LINEAR")
    return found


def _if(frame: Frame, condition: Value, yes: Value, no: Value | None = None) -> Value:
    if isinstance(condition, (list, str)) or isinstance(yes, (list, str)) or isinstance(no, (list, str)):
        raise BadExpression("IF takes single time series and numbers")
    if not isinstance(condition, dict):
        chosen = yes if condition else no
        return {} if chosen is None else chosen
    found = {}
    for at, truth in condition.items():
        chosen = yes if truth else no
        point = chosen.get(at) if isinstance(chosen, dict) else chosen
        if point is not None:
            found[at] = point
    return found


def _metrics(frame: Frame, part: Value = "") -> Value:
    return [series for name, series in frame.metrics.items() if str(part) in name]


def _time_series(frame: Frame, value: Value) -> Value:
    return dict.fromkeys(frame.times, number_of(value))


def _slice(frame: Frame, value: Value, start: Value, end: Value | None = None) -> Value:
    items = as_list(value)
    if end is None:
        index = int(number_of(start))
        if not -len(items) <= index < len(items):
            raise BadExpression(f"SLICE: index {index} is out of range")
        return items[index]
    return items[int(number_of(start)) : int(number_of(end))]


def _first(frame: Frame, value: Value) -> Value:
    return _slice(frame, value, 0.0)


def _last(frame: Frame, value: Value) -> Value:
    return _slice(frame, value, -1.0)


def _remove_empty(frame: Frame, value: Value) -> Value:
    return [series for series in as_list(value) if series]


def _period(frame: Frame, value: Value) -> Value:
    return float(frame.period)


FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    **{
        name: (lambda frame, value, function=function: pointwise(function, value), 1, 1)
        for name, function in _POINTWISE.items()
    },
    **{name: (_reduction(function), 1, 1) for name, function in _REDUCTIONS.items()},
    "DATAPOINT_COUNT": (_reduction(len), 1, 1),
    "DIFF": (_each(_diff), 1, 1),
    "RATE": (_each(_rate), 1, 1),
    "RUNNING_SUM": (_each(_running_sum), 1, 1),
    "FILL": (_fill, 2, 2),
    "IF": (_if, 2, 3),
    "METRICS": (_metrics, 0, 1),
    "TIME_SERIES": (_time_series, 1, 1),
    "SLICE": (_slice, 2, 3),
    "FIRST": (_first, 1, 1),
    "LAST": (_last, 1, 1),
    "REMOVE_EMPTY": (_remove_empty, 1, 1),
    "PERIOD": (_period, 1, 1),
}
