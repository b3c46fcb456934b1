"""Faults on request, for rehearsals: what can go wrong on AWS, made to happen here.

``POST /_slimline/faults`` with a JSON object adds one, ``GET`` lists, ``DELETE /_slimline/faults/<id>`` (or all)
takes them back. None of it is part of the AWS surface: a client of SageMaker sees only what a real failure would show
it.

A share is spread evenly, not drawn: of 0.25 every fourth is hit, so that a rehearsal can be repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.wire import Json

# Kind: what it does, and which fields beside the places it reads.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "errors": ("invocations are answered with `status` without asking the model", ("share", "status")),
    "latency": ("the model takes `seconds` (wall) longer", ("share", "seconds")),
    "dead_model": ("/ping answers 200, invocations get no answer", ("share",)),
    "connection_reset": ("the connection ends in the middle of an answer", ("share",)),
    "slow_start": ("every instance takes `seconds` (wall) longer to start", ("seconds",)),
    "stuck_creating": ("instances do not become healthy until the fault is taken back", ()),
    "failed_start": ("instances do not become healthy, and their start ends at once", ()),
    "silent_rollback": ("a deployment goes back at its end, without an alarm or a reason", ()),
    "inf1_fallback": ("a deployment moves all traffic at once and bakes nothing, as on Inf1", ()),
    "throttling": ("control-plane calls answer ThrottlingException", ("share",)),
    "refusal": ("control-plane calls answer the error `code` with `message`", ("share", "code", "message")),
    "clock_jump": ("the service's clock goes forward by `seconds` (virtual), once", ("seconds",)),
}
_PLACES = {
    "errors": ("endpoint", "config", "job"),
    "latency": ("endpoint", "config", "job"),
    "dead_model": ("endpoint", "config", "job"),
    "connection_reset": ("endpoint", "config", "job"),
    "slow_start": ("endpoint", "config", "job"),
    "stuck_creating": ("endpoint", "config", "job"),
    "failed_start": ("endpoint", "config", "job"),
    "silent_rollback": ("endpoint", "config"),
    "inf1_fallback": ("endpoint", "config"),
    "throttling": ("operation",),
    "refusal": ("operation",),
    "clock_jump": (),
}


class BadFault(Exception):
    """The request is not a fault; the text says why."""


@dataclass
class Fault:
    """One fault. Without a place it is everywhere, in transform jobs (``job``) too; ``times`` left to happen,
    none is without end.

    ``considered`` and ``happened`` count how often it could have happened and did.
    """

    id: str
    kind: str
    endpoint: str = ""
    config: str = ""
    operation: str = ""
    job: str = ""
    share: float = 1.0
    status: int = 500
    seconds: float = 0.0
    code: str = ""
    message: str = ""
    times: int | None = None
    considered: int = 0
    happened: int = 0

    def at(self, places: dict[str, str]) -> bool:
        return all(
            getattr(self, name) in ("", places.get(name, "")) for name in ("endpoint", "config", "job", "operation")
        )

    def happens(self) -> bool:
        """Whether it happens this time; the count goes on."""
        if self.times is not None and self.happened >= self.times:
            return False
        share = Fraction(self.share).limit_denominator(10_000)
        hit = int((self.considered + 1) * share) > int(self.considered * share)
        self.considered += 1
        self.happened += hit
        return hit


class Faults:
    """Every fault that stands."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._standing: dict[str, Fault] = {}
        self._numbers = itertools.count(1)

    def add(self, request: Any) -> Fault:
        """Check and keep a fault. Raises ``BadFault``."""
        fault = _parsed(request, f"fault-{next(self._numbers)}")
        if fault.kind == "clock_jump":
            self._clock.jump(fault.seconds)
            fault.considered = fault.happened = 1
        self._standing[fault.id] = fault
        return fault

    def remove(self, name: str) -> bool:
        """Take one back, or all with an empty name; whether there was one."""
        if name:
            return self._standing.pop(name, None) is not None
        found = bool(self._standing)
        self._standing.clear()
        return found

    def listed(self) -> list[Json]:
        return [asdict(fault) for fault in self._standing.values()]

    def __bool__(self) -> bool:
        """Whether any stands."""
        return bool(self._standing)

    def hit(self, kind: str, **places: str) -> Fault | None:
        """The fault of this kind that happens here and now, or none."""
        if not self._standing:
            return None
        found = (fault for fault in self._standing.values() if fault.kind == kind and fault.at(places))
        return next((fault for fault in found if fault.happens()), None)

    def standing(self, kind: str, **places: str) -> bool:
        """Whether a fault of this kind stands here, without counting."""
        return any(fault.kind == kind and fault.at(places) for fault in self._standing.values())


def _parsed(request: Any, name: str) -> Fault:
    if not isinstance(request, dict) or request.get("kind") not in KINDS:
        raise BadFault(f"kind must be one of {', '.join(KINDS)}")
    kind = request["kind"]
    allowed = ("kind", "times", *KINDS[kind][1], *_PLACES[kind])
    if unknown := sorted(set(request) - set(allowed)):
        raise BadFault(f"{kind} has no {', '.join(unknown)}; it has {', '.join(allowed)}")
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "share": (lambda value: _number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
        "seconds": (lambda value: _number(value) and 0 < value <= 86_400, "a number above 0 and at most 86400"),
        "status": (lambda value: isinstance(value, int) and 400 <= value <= 599, "400 to 599"),
        "times": (lambda value: value is None or (isinstance(value, int) and value >= 1), "a whole number, at least 1"),
    }
    for field, value in request.items():
        good, rule = checks.get(field, (lambda given: isinstance(given, str) and len(given) <= 256, "a name"))
        if isinstance(value, bool) or not good(value):
            raise BadFault(f"{field} must be {rule}, not {value!r}")
    if "seconds" in KINDS[kind][1] and "seconds" not in request:
        raise BadFault(f"{kind} needs seconds")
    if kind == "refusal" and not request.get("code"):
        raise BadFault("refusal needs code, an error code of AWS such as ResourceLimitExceeded")
    known = {field.name for field in fields(Fault)}
    return Fault(id=name, **{key: value for key, value in request.items() if key in known})


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value
