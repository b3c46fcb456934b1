"""AWS's own endpoint metrics, written by the router for every invocation.

Names, units and dimensions as in "Amazon SageMaker AI metrics in Amazon CloudWatch": namespace AWS/SageMaker, once with
{EndpointName, VariantName} (both fleets together), once with EndpointConfigName added (one fleet alone: what a rollback
alarm needs) and once with InstanceId. Latencies are this machine's, in microseconds, and are not scaled by the virtual
clock.

A request must cost little: it leaves one tuple behind, and tuples become samples in batches, at the latest when a
metric is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.metrics import Bucket, Dimensions, Metrics, dimensions
from deployments.local.endpoint_service.wire import Json

NAMESPACE = "AWS/SageMaker"
RESOLUTION = 10  # seconds
_BATCH = 2048  # requests: one sample for each different value in a batch
_UNITS = {
    "Invocations": "None",
    "Invocation4XXErrors": "None",
    "Invocation5XXErrors": "None",
    "InvocationModelErrors": "None",
    "InvocationsPerInstance": "None",
    "ConcurrentRequestsPerModel": "None",
    "ModelLatency": "Microseconds",
    "OverheadLatency": "Microseconds",
}

# The model's status, wall seconds in it (None: no answer) and outside it, the variant's instances, the one that served.
_Request = tuple[int, float | None, float, int, str]


class Recorder:
    """Counts one variant of one fleet."""

    def __init__(self, metrics: Metrics, clock: Clock, endpoint: str, variant: str, config: str) -> None:
        self._clock = clock
        self._metrics = metrics
        self.requests = 0
        self.errors_4xx = 0
        self.errors_5xx = 0
        self._both = {"EndpointName": endpoint, "VariantName": variant}
        self._everywhere = (dimensions(self._both), dimensions(self._both | {"EndpointConfigName": config}))
        self._waiting: list[_Request] = []
        self._slot = 0  # of RESOLUTION seconds, in which the waiting came
        for name, unit in _UNITS.items():  # listed before their first sample
            for dims in self._everywhere:
                metrics.series((NAMESPACE, name, dims), unit, RESOLUTION)

    def record(
        self, status: int, model_seconds: float | None, overhead_seconds: float, instances: int, instance: str = ""
    ) -> None:
        """One invocation.

        Args:
            status: What the model answered; 0 where it gave no answer in time, which counts as 5xx.
            model_seconds: Wall seconds that the model took; None where it gave no answer.
            overhead_seconds: Wall seconds of the request outside the model.
            instances: Instances of the variant in this fleet.
            instance: InstanceId of the one that served; empty where none did.
        """
        self.requests += 1
        if not 200 <= status < 400:
            self.errors_4xx += 400 <= status < 500
            self.errors_5xx += status == 0 or status >= 500
        slot = int(self._clock.now()) // RESOLUTION
        if slot != self._slot or len(self._waiting) >= _BATCH:
            self.settle()
            self._slot = slot
        if not self._waiting:
            self._metrics.before_reading(self.settle)
        self._waiting.append((status, model_seconds, overhead_seconds, instances, instance))

    def settle(self) -> None:
        """Turn what waits into samples."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        instances = {request[4] for request in waiting}
        alone = instances - {""} if len(instances) == 1 else set()  # then its samples are everyone's
        self._add(_samples(waiting), *self._everywhere, *map(self._of_instance, alone))
        for instance in instances - alone - {""}:
            self._add(_samples([request for request in waiting if request[4] == instance]), self._of_instance(instance))

    def _of_instance(self, instance: str) -> Dimensions:
        return dimensions(self._both | {"InstanceId": instance})

    def _add(self, samples: Mapping[str, Mapping[float, float]], *places: Dimensions) -> None:
        for name, values in samples.items():
            batch = Bucket.of(values)
            for dims in places:
                series = self._metrics.series((NAMESPACE, name, dims), _UNITS[name], RESOLUTION)
                series.bucket(self._slot * RESOLUTION).merge(batch)

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
        for dims in self._everywhere:
            self._metrics.series((NAMESPACE, name, dims), unit, RESOLUTION).bucket(now).add(value)

    def concurrency(self, in_flight: Iterable[int]) -> None:
        """How many requests each instance has under way now: a gauge, looked at several times in ten seconds."""
        for count in in_flight:
            self.write("ConcurrentRequestsPerModel", float(count), "None")

    def counts(self) -> Json:
        return {"requests": self.requests, "errors_4xx": self.errors_4xx, "errors_5xx": self.errors_5xx}


def _samples(requests: Sequence[_Request]) -> dict[str, Mapping[float, float]]:
    """Metric: value and how often."""
    count = len(requests)
    client = sum(400 <= request[0] < 500 for request in requests)
    server = sum(request[0] == 0 or request[0] >= 500 for request in requests)
    return {
        "Invocations": {1.0: count},
        "Invocation4XXErrors": {0.0: count - client, 1.0: client},
        "Invocation5XXErrors": {0.0: count - server, 1.0: server},
        "InvocationModelErrors": {0.0: count - client - server, 1.0: client + server},
        "InvocationsPerInstance": Counter(1.0 / max(1, request[3]) for request in requests),
        "OverheadLatency": Counter(round(request[2] * 1e6) for request in requests),
        "ModelLatency": Counter(round(request[1] * 1e6) for request in requests if request[1] is not None),
    }
