"""Blue/green deployments: a new fleet beside the old one, traffic moved step by step, and back when an alarm fires.

As "Blue/Green Deployments" in the SageMaker developer guide has it: provision, shift, bake on every step, terminate the
old fleet after TerminationWaitInSeconds; any alarm of AutoRollbackConfiguration in ALARM during a bake, or a new fleet
that does not become healthy, sends all traffic back to the old fleet. AWS then shows InService with the old
EndpointConfigName and no reason; the reason is in the endpoint's history under ``/_slimline/``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Fleet, FleetFailed
from deployments.local.endpoint_service.rules import instances_of
from deployments.local.endpoint_service.state import IN_SERVICE, Endpoint, Pending
from deployments.local.endpoint_service.wire import Json

_LOOK = 1.0  # virtual seconds between looks at the alarms
_LOOK_WALL = 0.02  # and never more often than this, wall seconds
_ALL_AT_ONCE: Json = {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}


class RolledBack(Exception):
    """Why the deployment went back."""


@dataclass(frozen=True)
class Step:
    """Let ``active`` instances of each variant take traffic, then bake ``seconds`` (virtual)."""

    active: Mapping[str, int]
    seconds: float
    parameter: str
    capacity: str


def plan(policy: Json, counts: Mapping[str, int], inf1: bool = False) -> list[Step]:
    """The steps of a blue/green policy.

    Args:
        policy: BlueGreenUpdatePolicy.
        counts: Instances of the new fleet by variant.
        inf1: AWS falls back to all-at-once without a bake on Inf1 instances.
    """
    routing = policy["TrafficRoutingConfiguration"]
    kind, wait = routing["Type"], float(routing["WaitIntervalInSeconds"])
    end = 0.0 if inf1 else float(policy.get("TerminationWaitInSeconds", 0))
    whole = Step(dict(counts), end, "TerminationWaitInSeconds", "full")
    if inf1 or kind == "ALL_AT_ONCE":
        return [whole]
    size = routing["CanarySize"] if kind == "CANARY" else routing["LinearStepSize"]
    step = {name: instances_of(size, count) for name, count in counts.items()}
    if kind == "CANARY":
        return [Step(step, wait, "WaitIntervalInSeconds", "canary"), whole]
    steps: list[Step] = []
    active = dict.fromkeys(counts, 0)
    while True:
        active = {name: min(count, active[name] + step[name]) for name, count in counts.items()}
        if active == dict(counts):
            return [*steps, whole]
        steps.append(Step(active, wait, "WaitIntervalInSeconds", "linear step"))


class Rollout:
    """One deployment of ``green`` onto an endpoint whose ``blue`` fleet serves."""

    def __init__(
        self, endpoint: Endpoint, green: Fleet, config: Json | None, clock: Clock, alarms: AlarmBook, faults: Faults
    ) -> None:
        self._endpoint = endpoint
        self._green = green
        self._policy: Json = (config or {}).get("BlueGreenUpdatePolicy") or _ALL_AT_ONCE
        rollback = (config or {}).get("AutoRollbackConfiguration") or {}
        self._watched = [alarm["AlarmName"] for alarm in rollback.get("Alarms", [])]
        self._clock = clock
        self._alarms = alarms
        self._faults = faults
        self._where = {"endpoint": endpoint.name, "config": green.config.name}
        self._deadline: float | None = None

    async def run(self) -> None:
        """Promote, or go back. Ends with the endpoint InService either way."""
        endpoint, green = self._endpoint, self._green
        assert endpoint.blue is not None
        endpoint.green = green
        endpoint.pending = Pending(green, self._clock.now())
        self._stage("Creating", f"Creating {len(green.config.all_variants)} production variant(s).")
        old = endpoint.blue
        try:
            await self._provision()
            for step in plan(self._policy, self._counts(), self._inf1()):
                await self._take(step)
            if self._faults.hit("silent_rollback", **self._where):
                raise RolledBack("a rehearsed fault, silent_rollback")
        except (RolledBack, FleetFailed) as reason:
            endpoint.green, endpoint.leaving = None, green  # all traffic is on the old fleet from here
            endpoint.note(self._clock.now(), f"rolled back from {green.config.name}: {reason}")
        else:
            endpoint.blue, endpoint.green, endpoint.leaving = green, None, old
            endpoint.note(self._clock.now(), f"{green.config.name} serves all traffic; {old.config.name} is terminated")
        await self._terminate(endpoint.leaving)
        endpoint.config = endpoint.blue.config.name
        endpoint.pending = None
        endpoint.status, endpoint.modified = IN_SERVICE, self._clock.now()

    async def _terminate(self, fleet: Fleet) -> None:
        self._stage("Deleting", f"Terminating the instances of {fleet.config.name}.")
        await fleet.retire()
        self._endpoint.leaving = None
        self._endpoint.retired.append(fleet.summary())

    async def _provision(self) -> None:
        wall = time.monotonic()
        await self._green.start()
        limit = self._policy.get("MaximumExecutionTimeoutInSeconds")
        if limit is not None:  # starting processes took wall time, which the virtual clock must not stretch
            self._deadline = self._clock.now() + float(limit) - (time.monotonic() - wall)
        self._endpoint.note(
            self._clock.now(), f"{self._green.config.name} is healthy: {sum(self._counts().values())} instance(s)"
        )

    async def _take(self, step: Step) -> None:
        self._stage("ActivatingTraffic", f"Activating traffic on {step.capacity} capacity.")
        self._green.activate(step.active)
        shown = ", ".join(f"{name} {count}/{self._counts()[name]}" for name, count in step.active.items())
        self._endpoint.note(self._clock.now(), f"traffic on {self._green.config.name}: {shown} instance(s)")
        for name, count in step.active.items():
            message = (
                f"Baking for {step.seconds:.0f} seconds ({step.parameter}) with traffic enabled on {step.capacity} "
                f"capacity of {count} instance(s)."
            )
            self._stage("Baking", message, name)
        await self._bake(step.seconds)

    async def _bake(self, seconds: float) -> None:
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

    def _counts(self) -> dict[str, int]:
        return {name: variant.desired for name, variant in self._green.variants.items()}

    def _inf1(self) -> bool:
        if self._faults.hit("inf1_fallback", **self._where):
            return True
        return any(variant["InstanceType"].startswith("ml.inf1.") for variant in self._green.config.all_variants)

    def _stage(self, status: str, message: str, variant: str | None = None) -> None:
        if self._endpoint.pending:
            for name in [variant] if variant else list(self._green.variants):
                self._endpoint.pending.stage(name, status, message, self._clock.now())
