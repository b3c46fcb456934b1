"""Stateful sessions: requests with one SessionId go to the instance whose model opened the session.

"Stateful sessions with Amazon SageMaker AI models" in the developer guide: NEW_SESSION asks the model for one; the
model names it, with the time of its end, in ``X-Amzn-SageMaker-New-Session-Id: ID; Expires=yyyy-mm-ddThh:mm:ssZ``, and
closes it with ``X-Amzn-SageMaker-Closed-Session-Id``. The end is the model's own time, so it is this machine's wall
clock here. What AWS says of a session that has ended, or whose instance is gone, is not documented.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.local.endpoint_service.state import Endpoint
from deployments.local.endpoint_service.wire import AwsError, timestamp

if TYPE_CHECKING:
    from deployments.local.endpoint_service.router import Target

NEW = "NEW_SESSION"
OPENED, CLOSED = "x-amzn-sagemaker-new-session-id", "x-amzn-sagemaker-closed-session-id"
_MOST = 10_000  # sessions; the oldest are forgotten first


@dataclass(frozen=True)
class _Session:
    target: Target
    ends: float  # wall seconds since the epoch


class Sessions:
    """Which instance holds which session of which endpoint."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], _Session] = {}

    def find(self, endpoint: Endpoint, session: str, variant: str | None) -> Target:
        """Where a request of that session goes. Raises ``AwsError``."""
        held = self._held.get((endpoint.name, session))
        if held is None or held.ends <= time.time():
            self._held.pop((endpoint.name, session), None)
            raise AwsError("ValidationError", f"Session {session} not found on endpoint {endpoint.name}.")
        target = held.target
        if variant is not None and variant != target.variant.name:
            held_by = f"Session {session} is held by variant {target.variant.name}, not by {variant}."
            raise AwsError("ValidationError", held_by)
        running = any(target.worker in fleet.workers for fleet in endpoint.fleets)
        if not running or target.worker is None or not target.worker.healthy:
            raise AwsError("ValidationError", f"The instance that held session {session} is gone.")
        return target

    def note(self, endpoint: str, asked: str, target: Target, headers: Mapping[str, str]) -> None:
        """Remember what a model's answer opened, forget what it closed."""
        if closed := headers.get(CLOSED):
            self._held.pop((endpoint, closed.strip()), None)
        if asked != NEW or not (opened := headers.get(OPENED)):
            return
        name, _, ends = opened.partition(";")
        _, _, when = ends.partition("=")
        self._held[endpoint, name.strip()] = _Session(target, timestamp(when.strip()) if when else float("inf"))
        while len(self._held) > _MOST:
            del self._held[next(iter(self._held))]
