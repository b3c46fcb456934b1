"""Blue/green deployments: a new fleet beside the old one, traffic moved step by step, and back when an alarm fires.

As "Blue/Green Deployments" in the SageMaker developer guide has it: provision, shift, bake on every step, terminate the
old fleet after TerminationWaitInSeconds; any alarm of AutoRollbackConfiguration in ALARM during a bake, or a new fleet
that does not become healthy, sends all traffic back to the old fleet. AWS then shows InService with the old
EndpointConfigName and no reason; the reason is in the endpoint's history under ``/_slimline/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.fleets import Fleet, FleetFailed
from deployments.local.endpoint_service.guard import Guard, RolledBack
from deployments.local.endpoint_service.rules import instances_of
from deployments.local.endpoint_service.state import IN_SERVICE, Endpoint, Pending
from deployments.local.endpoint_service.wire import Json

_ALL_AT_ONCE: Json = {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}


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

    def __init__(self, endpoint: Endpoint, green: Fleet, config: Json | None, clock: Clock, guard: Guard) -> None:
        self._endpoint = endpoint
        self._green = green
        self._policy: Json = (config or {}).get("BlueGreenUpdatePolicy") or _ALL_AT_ONCE
        self._clock = clock
        self._guard = guard
        self._before = endpoint.status_at_rest

    async def run(self) -> None:
        """Promote, or go back. Ends with the endpoint as it was before, or InService on the new fleet."""
        endpoint, green, status = self._endpoint, self._green, IN_SERVICE
        assert endpoint.blue is not None
        endpoint.green = green
        endpoint.pending = Pending(green, self._clock.now())
        self._guard.stage("Creating", f"Creating {len(green.config.all_variants)} production variant(s).")
        old = [fleet for fleet in (endpoint.mixed, endpoint.blue) if fleet is not None]
        try:
            await self._provision()
            for step in plan(self._policy, self._counts(), self._guard.inf1()):
                await self._take(step)
            self._guard.at_the_end()
        except (RolledBack, FleetFailed) as reason:
            leaving, status = [green], self._before
            endpoint.green = None  # all traffic is on the old fleet from here
            self._guard.note(f"rolled back from {green.config.name}: {reason}")
        else:
            leaving, endpoint.failure = old, None
            endpoint.blue, endpoint.green, endpoint.mixed = green, None, None
            self._guard.note(f"{green.config.name} serves all traffic; {old[-1].config.name} is terminated")
        await self._terminate(leaving)
        endpoint.config = endpoint.blue.config.name
        endpoint.pending = None
        endpoint.status, endpoint.modified = status, self._clock.now()

    async def _terminate(self, leaving: list[Fleet]) -> None:
        self._endpoint.leaving = leaving
        names = " and ".join(fleet.config.name for fleet in leaving)
        self._guard.stage("Deleting", f"Terminating the instances of {names}.")
        await asyncio.gather(*(fleet.retire() for fleet in leaving))
        self._endpoint.leaving = []
        self._endpoint.retired.extend(fleet.summary() for fleet in leaving)

    async def _provision(self) -> None:
        with self._guard.unscaled():
            await self._green.start()
        self._guard.note(f"{self._green.config.name} is healthy: {sum(self._counts().values())} instance(s)")

    async def _take(self, step: Step) -> None:
        self._guard.stage("ActivatingTraffic", f"Activating traffic on {step.capacity} capacity.")
        self._green.activate(step.active)
        shown = ", ".join(f"{name} {count}/{self._counts()[name]}" for name, count in step.active.items())
        self._guard.note(f"traffic on {self._green.config.name}: {shown} instance(s)")
        for name, count in step.active.items():
            message = (
                f"Baking for {step.seconds:.0f} seconds ({step.parameter}) with traffic enabled on {step.capacity} "
                f"capacity of {count} instance(s)."
            )
            self._guard.stage("Baking", message, name)
        await self._guard.bake(step.seconds)

    def _counts(self) -> dict[str, int]:
        return {name: variant.desired for name, variant in self._green.variants.items()}
