"""What an asynchronous endpoint's queue looks like, as metrics with the dimension EndpointName alone."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.metrics import Metrics, dimensions
from deployments.local.endpoint_service.recorder import NAMESPACE, RESOLUTION
from deployments.local.endpoint_service.state import Endpoint


class Backlog:
    """Writes the queues' metrics every ``RESOLUTION`` virtual seconds."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._measured: dict[str, int] = {}  # endpoint → number of the stretch that was last written

    def measure(self, endpoint: Endpoint, received: Sequence[float], running: int) -> None:
        """``received``: when each request that waits came, virtual seconds; ``running``: requests under way."""
        now = self._clock.now()
        stretch = int(now // RESOLUTION)
        if self._measured.get(endpoint.name) == stretch:
            return
        self._measured[endpoint.name] = stretch
        instances = sum(len(v.workers) for fleet in endpoint.fleets for v in fleet.production.values() if v.active)
        backlog = len(received) + running
        self._write(endpoint.name, "ApproximateBacklogSize", backlog, "Count")
        self._write(endpoint.name, "HasBacklogWithoutCapacity", float(bool(received) and not instances), "Count")
        self._write(endpoint.name, "ApproximateAgeOfOldestRequest", now - min(received, default=now), "Seconds")
        if instances:
            self._write(endpoint.name, "ApproximateBacklogSizePerInstance", backlog / instances, "Count")

    def _write(self, endpoint: str, name: str, value: float, unit: str) -> None:
        dims = dimensions({"EndpointName": endpoint})
        self._metrics.series((NAMESPACE, name, dims), unit, RESOLUTION).bucket(self._clock.now()).add(value)
