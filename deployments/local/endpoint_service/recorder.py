"""AWS's own endpoint metrics, written by the router for every invocation.

Names, units and dimensions as in "Amazon SageMaker AI metrics in Amazon CloudWatch": namespace AWS/SageMaker, once with
{EndpointName, VariantName} (both fleets together) and once with EndpointConfigName added (one fleet alone: what a
rollback alarm needs). Latencies are this machine's, in microseconds, and are not scaled by the virtual clock.
"""

from __future__ import annotations

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.metrics import Metrics, Series, dimensions
from deployments.local.endpoint_service.wire import Json

NAMESPACE = "AWS/SageMaker"
RESOLUTION = 10  # seconds
_UNITS = {
    "Invocations": "None",
    "Invocation4XXErrors": "None",
    "Invocation5XXErrors": "None",
    "InvocationModelErrors": "None",
    "InvocationsPerInstance": "None",
    "ModelLatency": "Microseconds",
    "OverheadLatency": "Microseconds",
}


class Recorder:
    """Counts one variant of one fleet."""

    def __init__(self, metrics: Metrics, clock: Clock, endpoint: str, variant: str, config: str) -> None:
        self._clock = clock
        self._metrics = metrics
        self.requests = 0
        self.errors_4xx = 0
        self.errors_5xx = 0
        both = {"EndpointName": endpoint, "VariantName": variant}
        self._dimensions = (both, both | {"EndpointConfigName": config})
        self._series: list[dict[str, Series]] = [
            {
                name: metrics.series((NAMESPACE, name, dimensions(dims)), unit, RESOLUTION)
                for name, unit in _UNITS.items()
            }
            for dims in self._dimensions
        ]

    def record(self, status: int, model_seconds: float | None, overhead_seconds: float, instances: int) -> None:
        """One invocation.

        Args:
            status: What the model answered; 0 where it gave no answer in time, which counts as 5xx.
            model_seconds: Wall seconds that the model took; None where it gave no answer.
            overhead_seconds: Wall seconds of the request outside the model.
            instances: Instances of the variant in this fleet.
        """
        client, server = self._count(status)
        values = {
            "Invocations": 1.0,
            "Invocation4XXErrors": float(client),
            "Invocation5XXErrors": float(server),
            "InvocationModelErrors": float(client or server),
            "InvocationsPerInstance": 1.0 / max(1, instances),
            "OverheadLatency": round(overhead_seconds * 1e6),
        }
        if model_seconds is not None:
            values["ModelLatency"] = round(model_seconds * 1e6)
        now = self._clock.now()
        for series in self._series:
            for name, value in values.items():
                series[name].bucket(now).add(value)

    def record_asynchronous(self, status: int, model_seconds: float | None) -> None:
        """One request that had waited in a queue. Asynchronous endpoints have fewer metrics for each."""
        client, server = self._count(status)
        self.write("Invocation4XXErrors", float(client), "None")
        self.write("Invocation5XXErrors", float(server), "None")
        if model_seconds is not None:
            self.write("ModelLatency", round(model_seconds * 1e6), "Microseconds")

    def _count(self, status: int) -> tuple[bool, bool]:
        """Whether it is the client's error, or the server's."""
        client, server = 400 <= status < 500, status == 0 or status >= 500
        self.requests += 1
        self.errors_4xx += client
        self.errors_5xx += server
        return client, server

    def first_chunk(self, model_seconds: float, overhead_seconds: float) -> None:
        """The wall seconds until a stream's first bytes, in the model and outside it."""
        self.write("FirstChunkLatency", round((model_seconds + overhead_seconds) * 1e6), "Microseconds")
        self.write("FirstChunkModelLatency", round(model_seconds * 1e6), "Microseconds")
        self.write("FirstChunkOverheadLatency", round(overhead_seconds * 1e6), "Microseconds")

    def mid_stream(self, error: bool) -> None:
        """Whether a stream ended in an error after it had begun."""
        self.write("MidStreamErrors", float(error), "None")

    def write(self, name: str, value: float, unit: str) -> None:
        """One sample of a metric that not every invocation has."""
        now = self._clock.now()
        for dims in self._dimensions:
            self._metrics.series((NAMESPACE, name, dimensions(dims)), unit, RESOLUTION).bucket(now).add(value)

    def counts(self) -> Json:
        return {"requests": self.requests, "errors_4xx": self.errors_4xx, "errors_5xx": self.errors_5xx}
