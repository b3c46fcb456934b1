"""How many instances a policy wants: arithmetic only.

Sources: "Step scaling policies" and "Target tracking scaling policies" in the Application Auto Scaling user guide.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from deployments.local.endpoint_service.wire import Json, invalid

_AGGREGATE: dict[str, Callable[[list[float]], float]] = {"Minimum": min, "Maximum": max, "Average": statistics.fmean}


def tracked(value: float, target: float, base: int) -> int:
    """The count at which the metric, which falls as instances are added, is at most its target."""
    return math.ceil(base * value / target - 1e-9)


def breach(config: Json, values: Sequence[float | None], threshold: float) -> float:
    """The metric's distance from the alarm's threshold. An alarm without data counts as exactly at its threshold."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0
    return float(_AGGREGATE[config.get("MetricAggregationType", "Average")](known)) - threshold


def stepped(config: Json, distance: float, base: int) -> int | None:
    """The count that a step policy wants, or None where no step covers the distance."""
    for step in config["StepAdjustments"]:
        low = step.get("MetricIntervalLowerBound", -math.inf)
        high = step.get("MetricIntervalUpperBound", math.inf)
        # The bound nearer to the threshold belongs to the step.
        if low <= distance < high if distance >= 0 else low < distance <= high:
            return _adjusted(config, int(step["ScalingAdjustment"]), base)
    return None


def _adjusted(config: Json, adjustment: int, base: int) -> int:
    if config["AdjustmentType"] == "ExactCapacity":
        return adjustment
    if config["AdjustmentType"] == "ChangeInCapacity":
        return base + adjustment
    change = base * adjustment / 100
    whole = int(change)  # towards zero
    if 0 < abs(change) < 1:
        whole = 1 if change > 0 else -1
    least = config.get("MinAdjustmentMagnitude", 0)
    if whole and abs(whole) < least:
        whole = least if whole > 0 else -least
    return base + whole


def check_steps(config: Json) -> None:
    """The rules of StepScalingPolicyConfiguration beyond its shape."""
    steps = config.get("StepAdjustments") or []
    if not config.get("AdjustmentType") or not steps:
        raise invalid("AdjustmentType and at least one step adjustment must be specified for a step scaling policy.")
    if config.get("MinAdjustmentMagnitude") and config["AdjustmentType"] != "PercentChangeInCapacity":
        raise invalid("MinAdjustmentMagnitude is only supported for the adjustment type PercentChangeInCapacity.")
    bounds = sorted(
        (each.get("MetricIntervalLowerBound", -math.inf), each.get("MetricIntervalUpperBound", math.inf))
        for each in steps
    )
    for low, high in bounds:
        if low >= high:
            raise invalid(
                "MetricIntervalUpperBound must be greater than MetricIntervalLowerBound in a step adjustment."
            )
    for (_, end), (start, _) in itertools.pairwise(bounds):
        if end != start:
            what = "a gap between" if end < start else "an overlap of"
            raise invalid(f"There must not be {what} step adjustment intervals.")
