"""What DescribeAlarmHistory shows: updates of states and configurations, deleted alarms' too."""

from __future__ import annotations

import json
from collections import deque

from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.wire import Json, epoch, timestamp

_MOST = 2_000  # items of all alarms


class History:
    """One list for all alarms."""

    def __init__(self) -> None:
        self._items: deque[tuple[float, Json]] = deque(maxlen=_MOST)
        self.count = 0  # of all that were ever added

    def put(self, when: float, item: Json) -> None:
        """One item, as it is shown."""
        self._items.append((when, item))
        self.count += 1

    def last(self, count: int) -> list[tuple[float, Json]]:
        """The newest items, the oldest of them first."""
        return list(self._items)[-count:] if count else []

    def state(self, alarm: str, kind: str, when: float, old: tuple[str, str], new: tuple[str, str]) -> None:
        """A change of state. ``old`` and ``new`` are state and reason."""
        states = {
            name: {"stateValue": state, "stateReason": reason}
            for name, (state, reason) in (("oldState", old), ("newState", new))
        }
        self._add(alarm, kind, when, "StateUpdate", f"Alarm updated from {old[0]} to {new[0]}", states)

    def configuration(self, alarm: str, kind: str, when: float, what: str, shown: Json) -> None:
        """``what`` is Create, Update or Delete."""
        done = {"Create": "created", "Update": "updated", "Delete": "deleted"}[what]
        data = {"type": what, f"{done}Alarm": shown}
        self._add(alarm, kind, when, "ConfigurationUpdate", f'Alarm "{alarm}" {done}', data)

    def _add(self, alarm: str, kind: str, when: float, item: str, summary: str, data: Json) -> None:
        shown = {
            "AlarmName": alarm,
            "AlarmType": kind,
            "Timestamp": epoch(when),
            "HistoryItemType": item,
            "HistorySummary": summary,
            "HistoryData": json.dumps({"version": "1.0", **data})[:4095],
        }
        self.put(when, shown)

    def describe(self, request: Json) -> Json:
        """DescribeAlarmHistory's answer."""
        kinds = request.get("AlarmTypes") or ["MetricAlarm"]
        start, end = timestamp(request.get("StartDate", 0)), timestamp(request.get("EndDate", 1e12))
        found = [
            item
            for when, item in self._items
            if start <= when <= end
            and item["AlarmType"] in kinds
            and request.get("AlarmName", item["AlarmName"]) == item["AlarmName"]
            and request.get("HistoryItemType", item["HistoryItemType"]) == item["HistoryItemType"]
        ]
        if request.get("ScanBy", "TimestampDescending") == "TimestampDescending":
            found.reverse()
        items, token = page(found, request.get("NextToken"), request.get("MaxRecords", 100))
        return {"AlarmHistoryItems": items} | token
