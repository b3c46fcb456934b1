"""Starting model servers, for an endpoint's fleets and for transform jobs alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import aiohttp

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.images import Images
from deployments.local.endpoint_service.metrics import Metrics
from deployments.local.endpoint_service.modeldata import ModelData
from deployments.local.endpoint_service.reaper import Reaper
from deployments.local.endpoint_service.state import Model
from deployments.local.endpoint_service.workers import Program, WorkerFailed

STARTUP_SECONDS = 480.0  # ContainerStartupHealthCheckTimeoutInSeconds when the variant names none
_STUCK_LOOK = 0.1  # wall seconds between looks whether a rehearsed fault still stands


@dataclass
class Tools:
    """What whoever starts model servers needs from the service."""

    clock: Clock
    metrics: Metrics
    faults: Faults
    images: Images
    reaper: Reaper
    client: aiohttp.ClientSession
    data: ModelData
    logs: Path
    startup_limit: float  # wall seconds; the service's own bound on every start
    max_instances: int = 32  # of all endpoints together, a new fleet counted beside the old
    # Starting a model server keeps a core busy: no more at once than there are cores.
    starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(2, os.cpu_count() or 2)))


async def program(
    tools: Tools, model: Model, seconds: float, environment: Mapping[str, str] = MappingProxyType({})
) -> Program:
    """What an instance of the model runs, with its files brought here. ``seconds``: wall time until it is healthy.

    Raises ``NoRuntime`` or ``NoModelData``.
    """
    container = model.container
    command = tools.images.command(container["Image"])
    folder = await tools.data.place(container)
    return Program(command, folder, container.get("Environment", {}) | environment, min(seconds, tools.startup_limit))


async def rehearsed_start(faults: Faults, **where: str) -> None:
    """What a fault does to the start of an instance of this endpoint or job. Raises ``WorkerFailed``."""
    if slow := faults.hit("slow_start", **where):
        await asyncio.sleep(slow.seconds)
    while faults.standing("stuck_creating", **where):
        await asyncio.sleep(_STUCK_LOOK)
    if faults.hit("failed_start", **where):
        raise WorkerFailed("The primary container did not pass the ping health check. (A rehearsed fault)")


async def all_of(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all; on the first failure cancel the rest and wait for them, then raise it."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
