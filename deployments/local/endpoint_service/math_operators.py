"""The operators of metric math, and what a value is: a number, a series, or a list of series.

A result that is no finite number is no point: CloudWatch leaves it out.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from deployments.local.endpoint_service.metric_math import BadExpression, Series, Value


def _truth(test: Callable[[float, float], bool]) -> Callable[[float, float], float]:
    return lambda left, right: float(test(left, right))


OPERATORS: dict[str, Callable[[float, float], float]] = {
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


def combine(function: Callable[[float, float], float], left: Value, right: Value) -> Value:
    """A binary operation; series meet at the times that both have."""
    if isinstance(left, str) or isinstance(right, str):
        raise BadExpression("unsupported operand type: a string")
    if isinstance(left, list) and isinstance(right, list):
        raise BadExpression("unsupported operand types: two arrays of time series")
    if isinstance(left, list):
        return [series_of(combine(function, each, right)) for each in left]
    if isinstance(right, list):
        return [series_of(combine(function, left, each)) for each in right]
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


def pointwise(function: Callable[[float], float], value: Value) -> Value:
    """``function`` of each point."""
    if isinstance(value, list):
        return [series_of(pointwise(function, each)) for each in value]
    if isinstance(value, dict):
        found = {at: _one(function, point) for at, point in value.items()}
        return {at: point for at, point in found.items() if point is not None}
    if isinstance(value, str):
        raise BadExpression("unsupported operand type: a string")
    return _one(function, value) or 0.0


def series_of(value: Value) -> Series:
    """The value as one series. Raises ``BadExpression``."""
    if not isinstance(value, dict):
        raise BadExpression("a time series is expected")
    return value


def as_list(value: Value) -> list[Series]:
    """The value as a list of series. Raises ``BadExpression``."""
    return value if isinstance(value, list) else [series_of(value)]


def number_of(value: Value) -> float:
    """The value as a number. Raises ``BadExpression``."""
    if not isinstance(value, float):
        raise BadExpression("a number is expected")
    return value
