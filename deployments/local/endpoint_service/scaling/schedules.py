"""Schedule expressions of scheduled actions: ``at(…)``, ``rate(…)`` and ``cron(…)`` with AWS's six fields."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from deployments.local.endpoint_service.wire import AwsError, invalid

_EXPRESSION = re.compile(r"(at|rate|cron)\((.+)\)")
_RATE = re.compile(r"(\d+) (minute|hour|day)s?")
_SECONDS = {"minute": 60, "hour": 3_600, "day": 86_400}
_YEARS = 200  # dates that are tried until the expression has no more


def next_time(expression: str, zone: str, anchor: float, after: float) -> float | None:
    """When the schedule runs next after ``after``, or None. Raises a ``ValidationException``.

    Args:
        expression: The Schedule.
        zone: An IANA time zone, which ``at`` and ``cron`` are meant in.
        anchor: Where a rate starts, seconds since the epoch.
        after: Seconds since the epoch.
    """
    match = _EXPRESSION.fullmatch(expression)
    if not match:
        raise _bad(expression, "it is none of at(yyyy-mm-ddThh:mm:ss), rate(value unit), cron(fields)")
    kind, inner = match.groups()
    try:
        where: tzinfo = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise invalid(f"Timezone {zone} is not supported: it must be an IANA name like Etc/UTC.") from error
    if kind == "at":
        return _at(expression, inner, where, after)
    if kind == "rate":
        return _rate(expression, inner, anchor, after)
    return _cron(expression, inner, where, after)


def _at(expression: str, inner: str, where: tzinfo, after: float) -> float | None:
    try:
        when = datetime.strptime(inner, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=where).timestamp()
    except ValueError as error:
        raise _bad(expression, str(error)) from error
    return when if when > after else None


def _rate(expression: str, inner: str, anchor: float, after: float) -> float:
    match = _RATE.fullmatch(inner)
    if not match or not int(match.group(1)):
        raise _bad(expression, "a rate is a number above 0 and minutes, hours or days")
    period = int(match.group(1)) * _SECONDS[match.group(2)]
    return anchor + period * max(0, math.floor((after - anchor) / period) + 1)


def _cron(expression: str, inner: str, where: tzinfo, after: float) -> float | None:
    fields = inner.split()
    if len(fields) != 6:
        raise _bad(expression, "cron has six fields: minutes, hours, day of month, month, day of week, year")
    if (fields[2] == "?") == (fields[4] == "?"):
        raise _bad(expression, "exactly one of day of month and day of week must be ?")
    years = _years(expression, fields[5])
    fields[4] = re.sub(r"(?<![#/\d])\d", lambda found: str(int(found.group()) - 1), fields[4])  # AWS: 1 is Sunday
    plain = " ".join("*" if field == "?" else field for field in fields[:5])
    try:
        found = CronSim(plain, datetime.fromtimestamp(after, UTC).astimezone(where))
        for _ in range(_YEARS):
            when = next(found, None)
            if when is None or (years and when.year > max(years)):
                return None
            if not years or when.year in years:
                return when.timestamp()
            found = CronSim(plain, datetime(when.year + 1, 1, 1, tzinfo=where))  # no date of this year
    except CronSimError as error:
        raise _bad(expression, str(error)) from error
    return None


def _years(expression: str, field: str) -> set[int]:
    """The years that are meant; empty for all."""
    if field == "*":
        return set()
    years: set[int] = set()
    for part in field.split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise _bad(expression, f"{part!r} is not a year")
        years.update(range(int(first), int(last or first) + 1))
    return years


def _bad(expression: str, why: str) -> AwsError:
    return invalid(f"Schedule expression {expression} is not valid: {why}.")
