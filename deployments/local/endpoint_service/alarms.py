"""CloudWatch alarms that are really evaluated, on the virtual clock.

The state follows "Configuring how CloudWatch alarms treat missing data" in the CloudWatch user guide: ``verdict`` is
its two tables as code. Alarms with periods of a minute or more are evaluated every minute, shorter ones every ten
seconds. A metric's data is visible at once, where AWS may take a minute or more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.local.endpoint_service.metrics import MetricName, Metrics
from deployments.local.endpoint_service.wire import Json

OK, ALARM, INSUFFICIENT = "OK", "ALARM", "INSUFFICIENT_DATA"
EXTRA_PERIODS = 2  # CloudWatch looks at a few more periods than asked when data is missing
_CATCH_UP = 20  # evaluations made up for when the process was held up

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, limit: value > limit,
    "GreaterThanOrEqualToThreshold": lambda value, limit: value >= limit,
    "LessThanThreshold": lambda value, limit: value < limit,
    "LessThanOrEqualToThreshold": lambda value, limit: value <= limit,
}
COMPARISONS = tuple(_COMPARE)
ACTIONS = {OK: "OKActions", ALARM: "AlarmActions", INSUFFICIENT: "InsufficientDataActions"}


def verdict(points: Sequence[bool | None], periods: int, needed: int, missing: str, current: str) -> str:
    """The alarm's state from its data points.

    Args:
        points: Oldest first, ``periods + EXTRA_PERIODS`` of them: True breaching, False within, None missing.
        periods: EvaluationPeriods (N).
        needed: DatapointsToAlarm (M).
        missing: TreatMissingData: breaching, notBreaching, ignore or missing.
        current: The state now, kept where the rules say so.
    """
    window = points[-periods:]
    if None not in window:
        return ALARM if sum(map(bool, window)) >= needed else OK
    existing = [point for point in points if point is not None]
    if len(existing) >= periods:
        return ALARM if sum(existing[-periods:]) >= needed else OK
    if not existing:
        return {"breaching": ALARM, "notBreaching": OK, "ignore": current}.get(missing, INSUFFICIENT)
    breaching = sum(existing)
    filled = periods - len(existing) if missing == "breaching" else 0
    if breaching + filled >= needed:
        return ALARM
    if missing in ("breaching", "notBreaching") or breaching < len(existing):
        return OK
    # Only breaching points, too few of them. `missing` alarms if the oldest is at least M periods old.
    age = len(points) - points.index(True)
    return ALARM if missing == "missing" and age >= needed else current


@dataclass
class Alarm:
    """One metric alarm. ``request`` is what PutMetricAlarm was given."""

    name: str
    arn: str
    request: Json
    metric: MetricName
    updated: float
    state: str = INSUFFICIENT
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: str = ""
    since: float = 0.0
    checked: float = 0.0  # end of the last window that was evaluated
    history: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=50))
    values: list[float | None] = field(default_factory=list)  # what the last evaluation saw, oldest first

    @property
    def step(self) -> int:
        return 60 if self.period >= 60 else 10

    @property
    def period(self) -> int:
        return int(self.request["Period"])

    @property
    def statistic(self) -> str:
        return str(self.request.get("Statistic") or self.request["ExtendedStatistic"])

    @property
    def actions(self) -> list[str]:
        """ARNs to run in the state that the alarm is in."""
        return self.request.get(ACTIONS[self.state], []) if self.request.get("ActionsEnabled", True) else []

    def turn(self, state: str, reason: str, when: float, data: str = "") -> None:
        if state != self.state:
            self.since = when
            self.history.append((when, state, reason))
        self.state, self.reason, self.reason_data = state, reason, data

    def evaluate(self, metrics: Metrics, end: float) -> None:
        """Evaluate the periods that end at ``end`` (virtual seconds)."""
        request = self.request
        periods = int(request["EvaluationPeriods"])
        needed = int(request.get("DatapointsToAlarm", periods))
        limit = float(request["Threshold"])
        compare = _COMPARE[request["ComparisonOperator"]]
        values = [self._value(metrics, end - back * self.period) for back in range(periods + EXTRA_PERIODS - 1, -1, -1)]
        points = [None if value is None else compare(value, limit) for value in values]
        state = verdict(points, periods, needed, request.get("TreatMissingData", "missing"), self.state)
        self.checked, self.values = end, values[-periods:]
        if state != self.state:
            self.turn(state, self._explain(state, values[-periods:], limit, needed), end)

    def _value(self, metrics: Metrics, end: float) -> float | None:
        bucket = metrics.window(self.metric, end - self.period, end, self.request.get("Unit"))
        return bucket.statistic(self.statistic)

    def _explain(self, state: str, values: Sequence[float | None], limit: float, needed: int) -> str:
        known = [f"{value:.6g}" for value in values if value is not None]
        if state == INSUFFICIENT:
            return f"Insufficient Data: {len(values)} datapoints were unknown."
        missing = len(values) - len(known)
        shown = f"[{', '.join(known)}]" + (f" and {missing} missing" if missing else "")
        return (
            f"Threshold Crossed: datapoints {shown} of the last {len(values)} period(s) of {self.period} s against "
            f"{self.request['ComparisonOperator']} {limit:g}, {needed} needed: {state}."
        )


class AlarmBook:
    """All alarms by name."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.alarms: dict[str, Alarm] = {}
        self.listener: Callable[[str, Alarm], None] = lambda action, alarm: None

    def put(self, name: str, arn: str, request: Json, metric: MetricName, now: float) -> None:
        """Create, or change in place: a changed alarm keeps its state until it is evaluated again."""
        alarm = self.alarms.get(name)
        if alarm is None:
            alarm = self.alarms[name] = Alarm(name, arn, request, metric, updated=now, since=now)
        alarm.request, alarm.metric, alarm.updated = request, metric, now
        alarm.checked = now // alarm.step * alarm.step

    def evaluate_due(self, now: float) -> None:
        """Evaluate every alarm whose next evaluation time has come.

        Scaling actions run when a state begins and at each evaluation while it lasts, as CloudWatch repeats them.
        """
        for alarm in list(self.alarms.values()):
            latest = now // alarm.step * alarm.step
            end = max(alarm.checked + alarm.step, latest - _CATCH_UP * alarm.step)
            if end > latest:
                continue
            while end <= latest:
                alarm.evaluate(self._metrics, end)
                end += alarm.step
            self.act(alarm)

    def act(self, alarm: Alarm) -> None:
        """Run the actions of the alarm's state."""
        for action in alarm.actions:
            self.listener(action, alarm)

    def firing(self, names: Sequence[str]) -> list[Alarm]:
        """Those of the named alarms that are in ALARM."""
        return [alarm for name in names if (alarm := self.alarms.get(name)) and alarm.state == ALARM]

    def unknown(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.alarms]


def describe(alarm: Alarm) -> dict[str, Any]:
    """The alarm as DescribeAlarms shows it."""
    shown = {key: value for key, value in alarm.request.items() if key not in ("Tags",)}
    return {
        "ActionsEnabled": True,
        "OKActions": [],
        "AlarmActions": [],
        "InsufficientDataActions": [],
        "Dimensions": [],
        **shown,
        "AlarmArn": alarm.arn,
        "AlarmConfigurationUpdatedTimestamp": round(alarm.updated, 3),
        "StateValue": alarm.state,
        "StateReason": alarm.reason[:1023],
        "StateReasonData": alarm.reason_data,
        "StateUpdatedTimestamp": round(alarm.since, 3),
        "StateTransitionedTimestamp": round(alarm.since, 3),
    }
