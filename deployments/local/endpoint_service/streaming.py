"""InvokeEndpointWithResponseStream: a container's answer relayed as it comes, as an event stream.

An error before the answer begins is an ordinary error. After that the stream's last message is an exception:
ModelStreamError (StreamBroken, ModelInvocationTimeExceeded) or InternalStreamFailure. A client that goes away ends the
request to the model. Times are wall seconds, as for every model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from deployments.local.endpoint_service import eventstream, runtime
from deployments.local.endpoint_service.asgi import Gone, Message, Receive, Send, disconnected
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.inference import (
    ATTRIBUTES,
    TIMED_OUT,
    Inference,
    Reply,
    model_error,
    no_answer,
    passed,
)
from deployments.local.endpoint_service.router import Router, Target
from deployments.local.endpoint_service.wire import Answer

STREAM_SECONDS = 480.0  # "60 seconds for regular responses and 8 minutes for streaming responses"
MAX_STREAM = 25 * 1024 * 1024  # bytes of an answer: "a maximum size of 25 MB"
_HOLD = 0.02  # seconds that the end of a chunk waits for the next one
_GATHER = 65_536  # bytes of one HTTP chunk that are waited for; a longer one is relayed in pieces
_ERRORS = {
    "StreamBroken": "The connection to the model was reset or closed.",
    "ModelInvocationTimeExceeded": "The model did not finish its response in time.",
}

_T = TypeVar("_T")


class Streams:
    """Answers InvokeEndpointWithResponseStream."""

    def __init__(self, router: Router, inference: Inference, faults: Faults, region: str, limit: float) -> None:
        self._router = router
        self._inference = inference
        self._faults = faults
        self._region = region
        self._limit = limit

    async def invoke(self, name: str, headers: Mapping[str, str], body: bytes, receive: Receive) -> Answer:
        """An answer whose body is relayed. ``headers`` with lower-case names. Raises ``AwsError`` and ``Gone``."""
        began = time.perf_counter()
        runtime.check("InvokeEndpointWithResponseStream", headers)
        target = self._router.target(self._router.serving(name), headers)
        sent = dict(headers)
        sent.pop("accept", None)  # this operation has a header of its own for it
        if accept := headers.get("x-amzn-sagemaker-accept"):
            sent["accept"] = accept
        self._router.copy(name, target, sent, body)
        if target.worker is None:
            raise self._router.no_instance(name, target.variant, began)
        gone = asyncio.ensure_future(disconnected(receive))
        target.worker.in_flight += 1
        target.worker.requests += 1
        stream = _Stream(name, target, gone, began, began + self._limit)
        try:
            reply = await _before(gone, self._open(stream, sent, body))
        except BaseException:  # cancelled, which is how it is told that the client went away: no error of the model
            stream.record(200, None)
            stream.close()
            raise
        if reply is not None:
            stream.record(reply.status, reply.seconds)
            stream.close()
            raise model_error(name, self._region, reply)
        stream.broken = self._faults.hit("connection_reset", endpoint=name, config=target.variant.config) is not None
        return Answer(200, headers=stream.headers(), relay=stream.relay)

    async def _open(self, stream: _Stream, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """Ask the model; the reply that ends the matter, or None where a good answer has begun."""
        worker = stream.target.worker
        assert worker is not None
        stream.asked = time.perf_counter()
        _, reply = await self._inference.rehearsed(stream.endpoint, stream.target.variant.config)
        if reply is not None:
            return reply
        left = stream.deadline - time.perf_counter()
        try:
            async with asyncio.timeout(left):
                stream.response = response = await self._inference.client.post(
                    f"{worker.url}/invocations",
                    data=body,
                    headers=passed(headers),
                    timeout=aiohttp.ClientTimeout(total=None),
                )
                if 200 <= response.status < 300:
                    return None
                content = await response.content.read(eventstream.PART)
                return Reply(response.status, content, response.headers, time.perf_counter() - stream.asked)
        except TimeoutError:
            return Reply(0, TIMED_OUT, {}, None)
        except aiohttp.ClientError as error:
            return no_answer(str(error) or type(error).__name__)


@dataclass
class _Stream:
    """One answer on its way from ``target`` to a client."""

    endpoint: str
    target: Target
    gone: asyncio.Future[None]
    began: float
    deadline: float
    asked: float = 0.0
    response: aiohttp.ClientResponse | None = None
    broken: bool = False  # a rehearsed fault: the connection ends in the middle of a message
    first: float | None = None  # when the model's first bytes were here
    sent: float | None = None  # when they were on their way
    size: int = 0
    _splitter: eventstream.Splitter = field(default_factory=eventstream.Splitter)

    def headers(self) -> list[tuple[str, str]]:
        assert self.response is not None
        found = [
            ("content-type", eventstream.CONTENT_TYPE),
            ("x-amzn-invoked-production-variant", self.target.variant.name),
        ]
        for name, shown in (("content-type", "x-amzn-sagemaker-content-type"), (ATTRIBUTES, ATTRIBUTES)):
            if value := self.response.headers.get(name):
                found.append((shown, value))
        return found

    async def relay(self, send: Send, start: Message) -> None:
        """Send the whole answer, from its first header to its last byte."""
        error: str | None = None
        try:
            await send(start)
            error = await self._parts(send)
            if self.broken:
                half = eventstream.part(b"half a message")[:20]
                await send({"type": "http.response.body", "body": half, "more_body": True})
                return  # the server closes the connection
            await send({"type": "http.response.body", "body": b"" if error is None else _failure(error)})
        except Gone:
            return  # nobody is there to tell
        finally:
            self.record(200, time.perf_counter() - self.asked, mid_stream=error is not None)
            self.close()

    async def _parts(self, send: Send) -> str | None:
        """Send what comes until it ends; the name of the error that ended it, if one did. Raises ``Gone``."""
        assert self.response is not None
        content, chunked = self.response.content, self.response.headers.get("transfer-encoding") == "chunked"
        reading = asyncio.ensure_future(_chunk(content, chunked))
        try:
            while True:
                left = self.deadline - time.perf_counter()
                wait = min(left, _HOLD) if self._splitter.waiting else left
                both: set[asyncio.Future[Any]] = {reading, self.gone}
                await asyncio.wait(both, timeout=max(0.0, wait), return_when=asyncio.FIRST_COMPLETED)
                if self.gone.done():
                    raise Gone
                if not reading.done():
                    if time.perf_counter() >= self.deadline:
                        return "ModelInvocationTimeExceeded"
                    await self._send(send, self._splitter.rest())
                    continue
                try:
                    chunk = reading.result()
                except (aiohttp.ClientError, ConnectionError):
                    await self._send(send, self._splitter.rest())
                    return "StreamBroken"
                if not chunk:
                    await self._send(send, self._splitter.rest())
                    return None
                self.first = self.first or time.perf_counter()
                self.size += len(chunk)
                await self._send(send, self._splitter.add(chunk))
                if self.size > MAX_STREAM:
                    return "InternalStreamFailure"
                reading = asyncio.ensure_future(_chunk(content, chunked))
        finally:
            reading.cancel()

    async def _send(self, send: Send, parts: Any) -> None:
        for content in parts:
            self.sent = self.sent or time.perf_counter()
            await send({"type": "http.response.body", "body": eventstream.part(content), "more_body": True})

    def record(self, status: int, seconds: float | None, mid_stream: bool = False) -> None:
        """The metrics of this invocation."""
        recorder, overhead = self.target.variant.recorder, time.perf_counter() - self.began - (seconds or 0.0)
        recorder.record(
            status,
            seconds,
            overhead,
            len(self.target.variant.workers),
            self.target.worker.id if self.target.worker else "",
        )
        if self.first is not None and self.sent is not None:
            model, whole = self.first - self.asked, self.sent - self.began
            recorder.first_chunk(model, whole - model)
        if self.response is not None and 200 <= status < 300:
            recorder.mid_stream(mid_stream)

    def close(self) -> None:
        """End the request to the model where it still runs."""
        assert self.target.worker is not None
        self.target.worker.in_flight -= 1
        self.gone.cancel()
        if self.response is not None:
            self.response.close()


def _failure(error: str) -> bytes:
    if error == "InternalStreamFailure":
        return eventstream.failure(error, {"Message": f"The model's response is larger than {MAX_STREAM} bytes."})
    return eventstream.failure("ModelStreamError", {"Message": _ERRORS[error], "ErrorCode": error})


async def _before(gone: asyncio.Future[None], work: Awaitable[_T]) -> _T:
    """The result of ``work``, unless the client goes away first. Raises ``Gone``."""
    task = asyncio.ensure_future(work)
    try:
        both: set[asyncio.Future[Any]] = {task, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()


async def _chunk(content: aiohttp.StreamReader, chunked: bool) -> bytes:
    """One chunk as the container wrote it; empty at the end."""
    gathered = b""
    while True:
        data, ended = await content.readchunk()
        gathered += data
        if (not data and not ended) or len(gathered) >= _GATHER or (gathered and (ended or not chunked)):
            return gathered
