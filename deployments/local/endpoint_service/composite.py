"""Composite alarms: a rule over other alarms' states.

"PutCompositeAlarm" in the API reference: ``ALARM(name)``, ``OK(name)``, ``INSUFFICIENT_DATA(name)``, ``TRUE``,
``FALSE``, joined by AND, OR, NOT and parentheses; a name may be quoted, and may be an ARN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deployments.local.endpoint_service.alarm_history import History
from deployments.local.endpoint_service.metric_queries import refused
from deployments.local.endpoint_service.wire import Json, epoch, not_implemented

_TOKEN = re.compile(r'\s*(?:(ALARM|OK|INSUFFICIENT_DATA)\s*\(\s*(?:"([^"]+)"|([^\s()",]+))\s*\)|([A-Z_]+|[()]))')
_DEEPEST = 40
KIND = "CompositeAlarm"

# A state by name → whether the rule holds.
Rule = Callable[[Callable[[str], str]], bool]


class _Reader:
    """Reads a rule: OR is looser than AND, AND than NOT."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self.names: list[str] = []

    def rule(self) -> Rule:
        found = self._any(0)
        if self._at < len(self._tokens):
            raise refused(f"Invalid alarm rule: {self._peek()!r} is not expected.")
        return found

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _take(self, word: str) -> bool:
        taken = self._peek() == word
        self._at += taken
        return taken

    def _any(self, depth: int) -> Rule:
        parts = [self._all(depth)]
        while self._take("OR"):
            parts.append(self._all(depth))
        return lambda state: any(part(state) for part in parts)

    def _all(self, depth: int) -> Rule:
        parts = [self._one(depth)]
        while self._take("AND"):
            parts.append(self._one(depth))
        return lambda state: all(part(state) for part in parts)

    def _one(self, depth: int) -> Rule:
        if depth > _DEEPEST:
            raise refused(f"Invalid alarm rule: it is nested more than {_DEEPEST} deep.")
        if self._take("NOT"):
            negated = self._one(depth + 1)
            return lambda state: not negated(state)
        if self._take("("):
            found = self._any(depth + 1)
            if not self._take(")"):
                raise refused("Invalid alarm rule: a closing parenthesis is missing.")
            return found
        if self._peek() in ("TRUE", "FALSE"):
            value = self._take("TRUE") or not self._take("FALSE")
            return lambda state: value
        if self._peek() not in ("ALARM", "OK", "INSUFFICIENT_DATA"):
            raise refused(f"Invalid alarm rule: {self._peek() or 'the end'!r} is not expected.")
        wanted, name = self._tokens[self._at]
        self._at += 1
        self.names.append(name)
        return lambda state: state(name) == wanted


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if not match:
            raise refused(f"Invalid alarm rule: {text[at:].strip()[:40]!r} is not understood.")
        state, quoted, bare, word = match.groups()
        if word == "AT_LEAST":
            raise not_implemented("AlarmRule: AT_LEAST")
        name = (quoted or bare or "").rpartition(":alarm:")[2]  # an ARN ends in the name
        yield (state or word), name
        at = match.end()


def read(text: str) -> tuple[Rule, list[str]]:
    """A rule and the alarms that it names. Raises ValidationError."""
    reader = _Reader(text)
    rule = reader.rule()
    return rule, reader.names


@dataclass
class Composite:
    """One composite alarm. ``request`` is what PutCompositeAlarm was given."""

    name: str
    arn: str
    request: Json
    updated: float
    log: History
    state: str = "INSUFFICIENT_DATA"
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: str = ""
    since: float = 0.0

    def __post_init__(self) -> None:
        self.configure(self.request)

    def configure(self, request: Json) -> None:
        """Take a new rule. Raises ValidationError."""
        self.request = request
        self.rule, self.children = read(request["AlarmRule"])

    def turn(self, state: str, reason: str, when: float, data: str = "") -> None:
        if state != self.state:
            self.log.state(self.name, KIND, when, (self.state, self.reason), (state, reason))
            self.since = when
        self.state, self.reason, self.reason_data = state, reason, data

    def evaluate(self, state_of: Callable[[str], str], now: float) -> bool:
        """Whether the state has changed."""
        state = "ALARM" if self.rule(state_of) else "OK"
        if state == self.state:
            return False
        seen = ", ".join(f"{name} is {state_of(name) or 'gone'}" for name in dict.fromkeys(self.children))
        self.turn(state, f"{self.arn} transitioned to {state}: {seen or 'a constant rule'}", now)
        return True

    def describe(self) -> Json:
        """As DescribeAlarms shows it."""
        shown = {key: value for key, value in self.request.items() if key != "Tags"}
        return {
            "ActionsEnabled": True,
            "OKActions": [],
            "AlarmActions": [],
            "InsufficientDataActions": [],
            **shown,
            "AlarmArn": self.arn,
            "AlarmConfigurationUpdatedTimestamp": epoch(self.updated),
            "StateValue": self.state,
            "StateReason": self.reason[:1023],
            "StateReasonData": self.reason_data,
            "StateUpdatedTimestamp": epoch(self.since),
            "StateTransitionedTimestamp": epoch(self.since),
        }
