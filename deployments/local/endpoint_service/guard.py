"""What watches a deployment: alarms during a bake, the time limit, and the stage that DescribeEndpoint shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Fleet
from deployments.local.endpoint_service.state import Endpoint
from deployments.local.endpoint_service.wire import Json

_LOOK = 1.0  # virtual seconds between looks at the alarms
_LOOK_WALL = 0.02  # and never more often than this, wall seconds


class RolledBack(Exception):
    """Why the deployment went back."""


class Guard:
    """Of one deployment of ``green`` onto an endpoint, under one DeploymentConfig."""

    def __init__(
        self, endpoint: Endpoint, green: Fleet, config: Json | None, clock: Clock, alarms: AlarmBook, faults: Faults
    ) -> None:
        self._endpoint = endpoint
        self._green = green
        self._clock = clock
        self._alarms = alarms
        self._faults = faults
        self._where = {"endpoint": endpoint.name, "config": green.config.name}
        rollback = (config or {}).get("AutoRollbackConfiguration") or {}
        self._watched = [alarm["AlarmName"] for alarm in rollback.get("Alarms", [])]
        policy = (config or {}).get("RollingUpdatePolicy") or (config or {}).get("BlueGreenUpdatePolicy") or {}
        limit = policy.get("MaximumExecutionTimeoutInSeconds")
        self._deadline = None if limit is None else clock.now() + float(limit)

    @contextmanager
    def unscaled(self) -> Iterator[None]:
        """Starting processes takes wall time, which the virtual clock must not stretch against the time limit."""
        wall, virtual = time.monotonic(), self._clock.now()
        yield
        if self._deadline is not None:
            self._deadline += (self._clock.now() - virtual) - (time.monotonic() - wall)

    async def bake(self, seconds: float) -> None:
        """Wait that many virtual seconds. Raises ``RolledBack`` when an alarm is in ALARM or the time is over."""
        end = self._clock.now() + seconds
        while True:
            now = self._clock.now()
            self._alarms.evaluate_due(now)
            if firing := self._alarms.firing(self._watched):
                raise RolledBack(f"alarm {firing[0].name} is in ALARM: {firing[0].reason}")
            if self._deadline is not None and now > self._deadline:
                raise RolledBack("MaximumExecutionTimeoutInSeconds has passed")
            if now >= end:
                return
            await self._clock.sleep(min(end - now, max(_LOOK, _LOOK_WALL * self._clock.speed)))

    def inf1(self) -> bool:
        """Whether AWS falls back to all-at-once without a bake, as it does on Inf1 instances."""
        if self._faults.hit("inf1_fallback", **self._where):
            return True
        return any(variant["InstanceType"].startswith("ml.inf1.") for variant in self._green.config.all_variants)

    def at_the_end(self) -> None:
        """A deployment that AWS takes back without saying why, where that is rehearsed."""
        if self._faults.hit("silent_rollback", **self._where):
            raise RolledBack("a rehearsed fault, silent_rollback")

    def stage(self, status: str, message: str, variant: str | None = None) -> None:
        """VariantStatus of one variant of the new fleet, or of all."""
        if self._endpoint.pending:
            for name in [variant] if variant else list(self._green.variants):
                self._endpoint.pending.stage(name, status, message, self._clock.now())

    def note(self, what: str) -> None:
        self._endpoint.note(self._clock.now(), what)
