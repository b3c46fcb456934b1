"""The operators and functions of metric math, each on numbers, series and lists of series."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

from deployments.local.endpoint_service.metric_math import BadExpression, Frame, Node, Series, Value
from deployments.local.endpoint_service.wire import not_implemented

# Functions of AWS that are not here: they are named in a 501, and not called unknown.
MISSING = frozenset(
    (
        *("ANOMALY_DETECTION_BAND", "DAY", "DATE", "MONTH", "YEAR", "EPOCH", "HOUR", "MINUTE", "DB_PERF_INSIGHTS"),
        *("INSIGHT_RULE_METRIC", "LAMBDA", "SEARCH", "SERVICE_QUOTA", "SORT"),
    )
)


def _truth(test: Callable[[float, float], bool]) -> Callable[[float, float], float]:
    return lambda left, right: float(test(left, right))


_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "==": _truth(operator.eq),
    "!=": _truth(operator.ne),
    "<": _truth(operator.lt),
    ">": _truth(operator.gt),
    "<=": _truth(operator.le),
    ">=": _truth(operator.ge),
    "&&": _truth(lambda left, right: bool(left) and bool(right)),
    "||": _truth(lambda left, right: bool(left) or bool(right)),
}
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
        return [each for part in parts for each in _as_list(part)]
    if node.kind == "negative":
        return _pointwise(operator.neg, parts[0])
    return combine(_OPERATORS[node.kind], parts[0], parts[1])


def combine(function: Callable[[float, float], float], left: Value, right: Value) -> Value:
    """A binary operation; series meet at the times that both have."""
    if isinstance(left, str) or isinstance(right, str):
        raise BadExpression("unsupported operand type: a string")
    if isinstance(left, list) and isinstance(right, list):
        raise BadExpression("unsupported operand types: two arrays of time series")
    if isinstance(left, list):
        return [_series(combine(function, each, right)) for each in left]
    if isinstance(right, list):
        return [_series(combine(function, left, each)) for each in right]
    if isinstance(left, dict):
        pairs = {at: (value, right.get(at) if isinstance(right, dict) else right) for at, value in left.items()}
        return _points({at: (a, b) for at, (a, b) in pairs.items() if b is not None}, function)
    if isinstance(right, dict):
        return _points({at: (left, value) for at, value in right.items()}, function)
    return _one(function, left, right) or 0.0


def _points(pairs: dict[float, tuple[float, float]], function: Callable[[float, float], float]) -> Series:
    found = {at: _one(function, a, b) for at, (a, b) in pairs.items()}
    return {at: value for at, value in found.items() if value is not None}


def _one(function: Callable[..., float], *values: float) -> float | None:
    try:
        found = function(*values)
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None


def _pointwise(function: Callable[[float], float], value: Value) -> Value:
    if isinstance(value, list):
        return [_series(_pointwise(function, each)) for each in value]
    if isinstance(value, dict):
        found = {at: _one(function, point) for at, point in value.items()}
        return {at: point for at, point in found.items() if point is not None}
    if isinstance(value, str):
        raise BadExpression("unsupported operand type: a string")
    return _one(function, value) or 0.0


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
        points = list(_series(value).values())
        return float(function(points)) if points else 0.0

    return reduce


def _each(function: Callable[[Frame, Series], Series]) -> Callable[..., Value]:
    def apply(frame: Frame, value: Value) -> Value:
        if isinstance(value, list):
            return [function(frame, each) for each in value]
        return function(frame, _series(value))

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
        return [_series(_fill(frame, each, filler)) for each in value]
    series, found = _series(value), {}
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
    return dict.fromkeys(frame.times, _number(value))


def _slice(frame: Frame, value: Value, start: Value, end: Value | None = None) -> Value:
    items = _as_list(value)
    if end is None:
        index = int(_number(start))
        if not -len(items) <= index < len(items):
            raise BadExpression(f"SLICE: index {index} is out of range")
        return items[index]
    return items[int(_number(start)) : int(_number(end))]


def _first(frame: Frame, value: Value) -> Value:
    return _slice(frame, value, 0.0)


def _last(frame: Frame, value: Value) -> Value:
    return _slice(frame, value, -1.0)


def _remove_empty(frame: Frame, value: Value) -> Value:
    return [series for series in _as_list(value) if series]


def _period(frame: Frame, value: Value) -> Value:
    return float(frame.period)


FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    **{
        name: (lambda frame, value, function=function: _pointwise(function, value), 1, 1)
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


def _series(value: Value) -> Series:
    if not isinstance(value, dict):
        raise BadExpression("a time series is expected")
    return value


def _as_list(value: Value) -> list[Series]:
    return value if isinstance(value, list) else [_series(value)]


def _number(value: Value) -> float:
    if not isinstance(value, float):
        raise BadExpression("a number is expected")
    return value
