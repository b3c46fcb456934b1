"""InvokeEndpointAsync: requests queue up by endpoint, and instances that are free take them.

"Asynchronous inference" in the developer guide. The answer names the result's place in S3 at once. A request waits
RequestTTLSeconds at most (virtual seconds), a model has InvocationTimeoutSeconds for it (wall seconds, like every
model's time). Its metrics are in "Monitor asynchronous endpoint"; Invocations and OverheadLatency are not among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from deployments.local.endpoint_service import runtime
from deployments.local.endpoint_service.async_metrics import Backlog
from deployments.local.endpoint_service.async_requests import AsyncRequest, Spool, check_input
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.inference import Inference, Reply, model_error
from deployments.local.endpoint_service.modeldata import s3_client, split
from deployments.local.endpoint_service.recorder import Recorder
from deployments.local.endpoint_service.router import Router, Target, routes
from deployments.local.endpoint_service.state import Endpoint, State
from deployments.local.endpoint_service.wire import Answer, json_answer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("slimline.async")

_OPERATION = "InvokeEndpointAsync"
_MOST = 1024**3  # bytes of a request or an answer in S3: "payload sizes up to 1 GB"
_LOOK = 0.1  # wall seconds between looks at the queues; a request wakes them at once
_ATTEMPTS = 3  # a request whose instance went away is given to another
_CONCURRENT = 1  # MaxConcurrentInvocationsPerInstance when nothing is said; SageMaker then chooses by itself


class AsyncInference:
    """The queues of all endpoints."""

    def __init__(
        self,
        state: State,
        router: Router,
        inference: Inference,
        spool: Spool,
        backlog: Backlog,
        clock: Clock,
        s3: str,
        changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._router = router
        self._inference = inference
        self._spool = spool
        self._backlog = backlog
        self._clock = clock
        self._s3_url = s3
        self._changed = changed
        self._queues: dict[str, deque[AsyncRequest]] = defaultdict(deque)
        self._busy: Counter[str] = Counter()  # worker ID → requests
        self._under_way: dict[asyncio.Task[None], str] = {}  # → endpoint
        self._wake = asyncio.Event()
        self._dice = random.Random()

    def invoke(self, name: str, headers: dict[str, str], body: bytes) -> Answer:
        """Accept one request. ``headers`` with lower-case names. Raises ``AwsError``."""
        runtime.check(_OPERATION, headers)
        endpoint = self._router.serving(name, asynchronous=True)
        assert endpoint.blue is not None
        given = runtime.members(_OPERATION, name, headers)
        check_input(given.get("InputLocation", ""), body)
        config = endpoint.blue.config.request["AsyncInferenceConfig"]
        request = AsyncRequest.accepted(name, config, headers, given, body, self._clock.now())
        self._spool.keep(request)
        self._queues[name].append(request)
        self._wake.set()
        answer = json_answer({"InferenceId": request.inference}, "application/json", 202)
        answer.headers.append(("x-amzn-sagemaker-outputlocation", request.output))
        if request.failure:
            answer.headers.append(("x-amzn-sagemaker-failurelocation", request.failure))
        return answer

    async def follow(self) -> None:
        """Give requests to instances until cancelled; what was kept from before comes first."""
        for request in self._spool.kept():
            self._queues[request.endpoint].append(request)
        try:
            while True:
                self._wake.clear()
                for name in list(self._queues):
                    self._look(name)
                self._measure()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK)
        finally:
            for task in self._under_way:
                task.cancel()

    def _measure(self) -> None:
        running = Counter(self._under_way.values())
        for endpoint in self._state.endpoints.values():
            if endpoint.blue is not None and endpoint.blue.config.asynchronous:
                waiting = self._queues.get(endpoint.name, ())
                self._backlog.measure(endpoint, [request.received for request in waiting], running[endpoint.name])

    def _look(self, name: str) -> None:
        """Hand out what can be handed out; end what has waited too long or has no endpoint any more."""
        queue, endpoint = self._queues[name], self._state.endpoints.get(name)
        if endpoint is None:
            for request in queue:
                self._spool.forget(request)
            del self._queues[name]
            return
        now = self._clock.now()
        for request in [each for each in queue if now > each.received + each.ttl]:
            queue.remove(request)
            self._start(request, self._expire(endpoint, request))
        while queue and (target := self._free(endpoint)):
            assert target.worker is not None
            self._busy[target.worker.id] += 1
            request = queue.popleft()
            self._start(request, self._process(request, target))

    def _start(self, request: AsyncRequest, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._under_way[task] = request.endpoint
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("an asynchronous request broke", exc_info=error)

    def _free(self, endpoint: Endpoint) -> Target | None:
        """An instance that may take another request: a variant by weight among those that have one."""
        found: list[tuple[Target, float]] = []
        fleets = {id(variant): fleet for fleet in endpoint.fleets for variant in fleet.variants.values()}
        for variant, part in routes(endpoint):
            fleet = fleets[id(variant)]
            client = fleet.config.request.get("AsyncInferenceConfig", {}).get("ClientConfig", {})
            most = client.get("MaxConcurrentInvocationsPerInstance", _CONCURRENT)
            ready = [w for w in variant.workers[: variant.active] if w.healthy and self._busy[w.id] < most]
            if ready and part > 0:
                found.append((Target(fleet, variant, min(ready, key=lambda w: self._busy[w.id])), part))
        if not found:
            return None
        return self._dice.choices([target for target, _ in found], [part for _, part in found])[0]

    async def _process(self, request: AsyncRequest, target: Target) -> None:
        worker, recorder = target.worker, target.variant.recorder
        assert worker is not None
        recorder.write("TimeInBacklog", round((self._clock.now() - request.received) * 1e6), "Microseconds")
        try:
            body = await self._input(request, recorder)
            if body is None:
                return
            reply = await self._inference.answer(
                request.endpoint, target.variant, worker, request.headers, body, _MOST, request.seconds
            )
        finally:
            self._busy[worker.id] -= 1
            if not self._busy[worker.id]:
                del self._busy[worker.id]
        request.attempts += 1
        if reply.status == 0 and not worker.healthy and request.attempts < _ATTEMPTS:
            self._queues[request.endpoint].appendleft(request)
            return
        await self._settle(request, recorder, reply)

    async def _settle(self, request: AsyncRequest, recorder: Recorder, reply: Reply) -> None:
        """Put the result, or why there is none, into S3; only then the request is forgotten."""
        recorder.record_asynchronous(reply.status, reply.seconds)
        if not reply.good:
            await self._fail(request, recorder, model_error(request.endpoint, self._state.region, reply).message)
            return
        began = time.perf_counter()
        try:
            await self._put(request.output, reply.body, reply.headers.get("content-type", "application/octet-stream"))
        except (ClientError, BotoCoreError) as error:
            recorder.write("ResponseUploadFailures", 1.0, "Count")
            await self._fail(request, recorder, f"Failed to upload the response to {request.output}: {error}")
            return
        recorder.write("ResponseUploadLatency", round((time.perf_counter() - began) * 1e6), "Microseconds")
        self._done(request, recorder)

    async def _input(self, request: AsyncRequest, recorder: Recorder) -> bytes | None:
        """The request's body; None where it could not be had, and the request has failed."""
        if not request.source:
            return request.body
        began = time.perf_counter()
        try:
            body = await asyncio.to_thread(self._get, request.source)
        except (ClientError, BotoCoreError) as error:
            recorder.write("RequestDownloadFailures", 1.0, "Count")
            await self._fail(request, recorder, f"Failed to download the request from {request.source}: {error}")
            return None
        recorder.write("RequestDownloadLatency", round((time.perf_counter() - began) * 1e6), "Microseconds")
        if len(body) > _MOST:
            await self._fail(request, recorder, f"The request at {request.source} is larger than {_MOST} bytes.")
            return None
        return body

    async def _expire(self, endpoint: Endpoint, request: AsyncRequest) -> None:
        if endpoint.blue is None:
            self._spool.forget(request)
            return
        recorder = next(iter(endpoint.blue.production.values())).recorder
        recorder.write("ExpiredRequests", 1.0, "Count")
        await self._fail(request, recorder, f"The request waited longer than its {request.ttl:.0f} seconds.")

    async def _fail(self, request: AsyncRequest, recorder: Recorder, why: str) -> None:
        recorder.write("InvocationFailures", 1.0, "Count")
        try:
            if request.failure:
                await self._put(request.failure, why.encode(), "text/plain")
        except (ClientError, BotoCoreError) as error:
            log.error("%s of request %s; it could not be written to %s: %s", why, request.key, request.failure, error)
        self._done(request, recorder)

    def _done(self, request: AsyncRequest, recorder: Recorder) -> None:
        recorder.write("InvocationsProcessed", 1.0, "Count")
        spent = (self._clock.now() - request.received) * 1e3
        recorder.write("TotalProcessingTime", round(spent), "Milliseconds")
        self._spool.forget(request)
        self._changed()

    async def _put(self, uri: str, body: bytes, content_type: str) -> None:
        bucket, key = split(uri)
        await asyncio.to_thread(self._s3.put_object, Bucket=bucket, Key=key, Body=body, ContentType=content_type)

    def _get(self, uri: str) -> bytes:
        bucket, key = split(uri)
        return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read(_MOST + 1)

    @cached_property
    def _s3(self) -> S3Client:
        return s3_client(self._s3_url, self._state.region)
