"""Instance metrics, taken from the model servers' processes: namespace /aws/sagemaker/Endpoints, in Percent.

"Amazon SageMaker AI jobs and endpoint metrics": CPUUtilization is the sum over cores (up to 100 % a core),
MemoryUtilization the part of the machine's memory, DiskUtilization the part of the disk that is used. Here an instance
is one process: its children are not counted, memory and disk are this machine's. Dimensions {EndpointName,
VariantName}, and with InstanceId.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.fleets import Fleet
from deployments.local.endpoint_service.metrics import Metrics, dimensions
from deployments.local.endpoint_service.workers import Worker

NAMESPACE = "/aws/sagemaker/Endpoints"
RESOLUTION = 60  # seconds
_WALL = 1.0  # seconds between samples at most; a fast clock wants two a virtual minute, but not more than ten a second


class InstanceMetrics:
    """Samples of every instance of the fleets that it is shown."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._every = max(0.1, min(_WALL, RESOLUTION / clock.speed / 2))
        self._next = 0.0
        self._processes: dict[int, psutil.Process] = {}

    def sample(self, fleets: Iterable[Fleet]) -> None:
        """Look at every process, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        known, self._processes = self._processes, {}
        for fleet in fleets:
            for variant in fleet.variants.values():
                for worker in variant.workers:
                    if worker.pid is None:
                        continue
                    with suppress(psutil.Error, OSError):  # it ended just now
                        self._processes[worker.pid] = known.get(worker.pid) or psutil.Process(worker.pid)
                        values = dict(_percent(self._processes[worker.pid], worker))
                        if worker.pid in known:  # CPU time is counted from the look before
                            self._write(fleet.endpoint, variant.name, worker, values)

    def _write(self, endpoint: str, variant: str, worker: Worker, values: dict[str, float]) -> None:
        both = {"EndpointName": endpoint, "VariantName": variant}
        now = self._clock.now()
        for name, value in values.items():
            for dims in (both, both | {"InstanceId": worker.id}):
                self._metrics.series((NAMESPACE, name, dimensions(dims)), "Percent", RESOLUTION).bucket(now).add(value)


def _percent(process: psutil.Process, worker: Worker) -> Iterator[tuple[str, float]]:
    yield "CPUUtilization", process.cpu_percent()  # since the last look
    yield "MemoryUtilization", process.memory_percent()
    yield "DiskUtilization", psutil.disk_usage(str(worker.model_dir)).percent
