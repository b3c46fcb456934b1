"""A fleet: the instances that one EndpointConfig asks for, variant by variant.

During a deployment two fleets stand side by side. Traffic moves by whole instances: ``active`` of a variant's instances
take part, and the variant's share of the traffic is ``active / instances``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.local.endpoint_service.images import NoRuntime
from deployments.local.endpoint_service.modeldata import NoModelData
from deployments.local.endpoint_service.recorder import Recorder
from deployments.local.endpoint_service.stand_ins import CannotStart, check_container
from deployments.local.endpoint_service.starting import STARTUP_SECONDS, Tools, all_of, program, rehearsed_start
from deployments.local.endpoint_service.state import EndpointConfig, Model
from deployments.local.endpoint_service.wire import Json
from deployments.local.endpoint_service.workers import Program, Worker, WorkerFailed

log = logging.getLogger("slimline.fleets")

DRAIN_SECONDS = 485.0  # a little more than the longest stream


class FleetFailed(Exception):
    """The fleet did not become healthy; the text is a FailureReason."""


@dataclass
class Variant:
    """One production variant of a fleet."""

    name: str
    config: str
    spec: Json
    model: Model
    weight: float
    desired: int
    recorder: Recorder
    shadow: bool = False  # gets copies of requests; nobody sees its answers
    workers: list[Worker] = field(default_factory=list)
    active: int = 0  # how many instances take traffic
    program: Program | None = None
    turn: int = 0
    whole: int | None = None  # in a rolling deployment: instances of both fleets that take traffic

    @property
    def share(self) -> float:
        """The part of this variant's traffic that this fleet takes, 0 to 1."""
        return self.active / (self.whole or len(self.workers)) if self.workers else 0.0

    def pick(self) -> Worker | None:
        """A healthy active instance: the next in turn, or the least busy if RoutingConfig says so."""
        ready = [worker for worker in self.workers[: self.active] if worker.healthy]
        if not ready:
            return None
        if self.spec.get("RoutingConfig", {}).get("RoutingStrategy") == "LEAST_OUTSTANDING_REQUESTS":
            return min(ready, key=lambda worker: worker.in_flight)
        self.turn += 1
        return ready[self.turn % len(ready)]


class Fleet:
    """All variants of one EndpointConfig on one endpoint."""

    def __init__(self, endpoint: str, config: EndpointConfig, models: Mapping[str, Model], tools: Tools) -> None:
        self.endpoint = endpoint
        self.config = config
        self.asynchronous = config.asynchronous
        self.capture = config.capture if config.capture.get("EnableCapture") else {}
        self.started = tools.clock.now()
        self._tools = tools
        self.variants: dict[str, Variant] = {}
        for spec in (*config.variants, *config.shadows):
            name = spec["VariantName"]
            recorder = Recorder(tools.metrics, tools.clock, endpoint, name, config.name)
            weight, count = spec.get("InitialVariantWeight", 1.0), spec["InitialInstanceCount"]
            self.variants[name] = Variant(
                name, config.name, spec, models[spec["ModelName"]], weight, count, recorder, spec in config.shadows
            )
        # Variants whose answers are given, and the one that gets copies, or none.
        self.production = {name: variant for name, variant in self.variants.items() if not variant.shadow}
        self.shadow = next((variant for variant in self.variants.values() if variant.shadow), None)

    def draw(self, dice: random.Random) -> Variant | None:
        """A production variant by weight; None where no weight is above 0."""
        drawn, left = None, 0.0
        for variant in self.production.values():
            left += variant.weight
            # Each takes the place of those before it with its part of the weight so far.
            if variant.weight and (drawn is None or dice.random() * left < variant.weight):
                drawn = variant
        return drawn

    @property
    def workers(self) -> list[Worker]:
        return [worker for variant in self.variants.values() for worker in variant.workers]

    async def start(self) -> None:
        """Start every instance. Raises ``FleetFailed`` and leaves none running if one fails."""
        try:
            await self.prepare()
            await all_of([self._grow(variant, variant.desired) for variant in self.variants.values()])
        except (FleetFailed, WorkerFailed, OSError) as error:
            await self.stop(grace=1.0)
            raise FleetFailed(str(error)) from error

    async def prepare(self) -> None:
        """Bring the model's files here, so that instances can start. Raises ``FleetFailed``."""
        try:
            for variant in self.variants.values():
                wanted = variant.spec.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_SECONDS)
                variant.program = await program(self._tools, variant.model, float(wanted))
                if self._stand_in(variant):
                    log.warning("%s, %s: %s", self.endpoint, self.config.name, self._stand_in(variant))
                    await asyncio.to_thread(
                        check_container,
                        variant.model.container,
                        variant.spec["InstanceType"],
                        variant.program.model_dir,
                    )
        except (CannotStart, NoRuntime, NoModelData, OSError) as error:
            raise FleetFailed(str(error)) from error

    async def resize(self, name: str, count: int) -> None:
        """Start or drain instances until the variant has ``count``. ``FleetFailed``: the old ones still serve."""
        self.variants[name].desired = count
        await self.grow(name, count)
        self.variants[name].active = count
        await self.shrink(name, count)

    async def grow(self, name: str, count: int) -> None:
        """Start instances until the variant has ``count``; they take no traffic yet. Raises ``FleetFailed``."""
        try:
            await self._grow(self.variants[name], count)
        except (WorkerFailed, OSError) as error:
            raise FleetFailed(str(error)) from error

    async def shrink(self, name: str, count: int) -> None:
        """Drain and end what the variant has beyond ``count`` instances."""
        variant = self.variants[name]
        surplus, variant.workers = variant.workers[count:], variant.workers[:count]
        variant.active = min(variant.active, count)
        await _drain(surplus)

    def sample(self) -> None:
        """Write how many requests are under way on each instance that takes traffic."""
        for variant in self.variants.values():
            variant.recorder.concurrency(worker.in_flight for worker in variant.workers[: variant.active])

    def activate(self, share: Mapping[str, int] | None = None) -> None:
        """Let that many instances of each variant take traffic; all of them if nothing is said."""
        for name, variant in self.variants.items():
            variant.active = len(variant.workers) if share is None else share.get(name, 0)

    async def retire(self) -> None:
        """Let requests under way finish, then end the processes."""
        await _drain(self.workers)

    async def stop(self, grace: float) -> None:
        await asyncio.gather(*(worker.stop(grace) for worker in self.workers))

    async def _grow(self, variant: Variant, count: int) -> None:
        program = variant.program
        assert program is not None
        wanted = count - len(variant.workers)
        new = [self._worker(variant, len(variant.workers) + n, program) for n in range(wanted)]
        try:
            await all_of([self._launch(worker) for worker in new])
        except BaseException:  # a cancelled launch too: no process outlives the fleet that it was for
            await asyncio.gather(*(worker.stop(1.0) for worker in new))
            raise
        variant.workers.extend(new)

    def _worker(self, variant: Variant, index: int, program: Program) -> Worker:
        log = self._tools.logs / self.endpoint / self.config.name / f"{variant.name}-{index}.log"
        return Worker(variant.name, program, log, self._tools.reaper)

    async def _launch(self, worker: Worker) -> None:
        await rehearsed_start(self._tools.faults, endpoint=self.endpoint, config=self.config.name)
        async with self._tools.starts:
            await worker.start(self._tools.client)

    def _stand_in(self, variant: Variant) -> str:
        return self._tools.images.stand_in(variant.model.container["Image"])

    def summary(self) -> Json:
        """For people: weights, instances, requests and errors since the fleet started."""
        variants = {
            variant.name: {
                "weight": variant.weight,
                "share": variant.share,
                "shadow": variant.shadow,
                "model": variant.model.name,
                "image": variant.model.container["Image"],
                "stand_in": self._stand_in(variant),
                "active_instances": variant.active,
                "instances": [_seen(worker) for worker in variant.workers],
                **variant.recorder.counts(),
            }
            for variant in self.variants.values()
        }
        totals = {key: sum(v[key] for v in variants.values()) for key in ("requests", "errors_4xx", "errors_5xx")}
        return {"config": self.config.name, "started": round(self.started, 3), "variants": variants, **totals}


def _seen(worker: Worker) -> Json:
    return {
        "id": worker.id,
        "pid": worker.pid,
        "healthy": worker.healthy,
        "in_flight": worker.in_flight,
        "requests": worker.requests,
        "restarts": worker.restarts,
    }


async def _drain(workers: list[Worker]) -> None:
    async def one(worker: Worker) -> None:
        await worker.drained(DRAIN_SECONDS)
        await worker.stop()

    await asyncio.gather(*(one(worker) for worker in workers))
