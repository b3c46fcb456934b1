"""One request to one model server: what it answers, a rehearsed fault in its place, and its error as clients see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

import aiohttp
from multidict import CIMultiDict

from deployments.local.endpoint_service.deadlines import Deadlines
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Variant
from deployments.local.endpoint_service.state import ACCOUNT
from deployments.local.endpoint_service.wire import AwsError
from deployments.local.endpoint_service.workers import Worker

MAX_BODY = 6_291_456  # bytes, both ways
MODEL_SECONDS = 60.0
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
SESSION = "x-amzn-sagemaker-session-id"
_PASSED = ("content-type", "accept", ATTRIBUTES, SESSION)  # request headers that the container sees
_NO_TYPE = CIMultiDict({"Content-Type": None})
_NO_TIMER = aiohttp.ClientTimeout()
_SHOWN = 1024  # characters of a model's error that are repeated
TIMED_OUT = b"Your invocation timed out while waiting for a response from container primary."


class Passed(aiohttp.ClientRequest):
    """A request with the caller's headers only: for a session's ``request_class``.

    As ``skip_auto_headers`` with every name, but that builds two collections for each request.
    """

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        self._skip_auto_headers = _NO_TYPE  # a body without a type gets none


class Reply(NamedTuple):
    """What a model server said. ``seconds``: wall time of it, None where there was no answer."""

    status: int  # 0: no answer
    body: bytes
    headers: Mapping[str, str]
    seconds: float | None

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class Inference:
    """Asks model servers. ``seconds``: wall time that an answer may take; ``deadlines`` must be looked at for it."""

    def __init__(self, client: aiohttp.ClientSession, faults: Faults, seconds: float = MODEL_SECONDS) -> None:
        self.client = client
        self.deadlines = Deadlines()
        self._faults = faults
        self._seconds = seconds

    def answer(
        self,
        endpoint: str,
        variant: Variant,
        worker: Worker,
        headers: Mapping[str, str],
        body: bytes,
        limit: int = MAX_BODY,
        seconds: float | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """What the model answers, or a rehearsed fault in its place. Added latency counts as the model's.

        Args:
            endpoint: its name, for faults that stand on it.
            variant: the variant that ``worker`` belongs to.
            worker: who is asked.
            headers: the caller's, with lower-case names.
            body: what the container gets.
            limit: bytes of the answer, at most.
            seconds: wall time for the answer; the service's usual limit if nothing is said.
        """
        if self._faults:
            return self._rehearse(endpoint, variant, worker, headers, body, limit, seconds)
        return self._ask(worker, headers, body, limit, seconds)

    async def _rehearse(
        self,
        endpoint: str,
        variant: Variant,
        worker: Worker,
        headers: Mapping[str, str],
        body: bytes,
        limit: int,
        seconds: float | None,
    ) -> Reply:
        slow, reply = await self.rehearsed(endpoint, variant.config)
        if reply is None:
            reply = await self._ask(worker, headers, body, limit, seconds)
        if slow and reply.seconds is not None:
            return reply._replace(seconds=reply.seconds + slow)
        return reply

    async def rehearsed(self, endpoint: str, config: str) -> tuple[float, Reply | None]:
        """Seconds of latency that a fault added just now, and the answer that one gives in the model's place."""
        where = {"endpoint": endpoint, "config": config}
        slow = self._faults.hit("latency", **where)
        if slow:
            await asyncio.sleep(slow.seconds)
        seconds = slow.seconds if slow else 0.0
        if fault := self._faults.hit("errors", **where):
            return seconds, Reply(fault.status, b'{"error": "a rehearsed fault"}', {}, 0.0)
        if self._faults.hit("dead_model", **where):
            return seconds, no_answer("a rehearsed fault")
        return seconds, None

    async def _ask(
        self, worker: Worker, headers: Mapping[str, str], body: bytes, limit: int, seconds: float | None
    ) -> Reply:
        task = self.deadlines.begin(self._seconds if seconds is None else seconds)
        worker.in_flight += 1
        worker.requests += 1
        began = time.perf_counter()
        try:
            request = self.client.post(worker.invocations, data=body, headers=passed(headers), timeout=_NO_TIMER)
            async with request as response:
                content = await response.content.read(limit + 1)
                while len(content) <= limit and not response.content.at_eof():
                    content += await response.content.read(limit + 1 - len(content))
                if len(content) > limit:
                    return Reply(0, f"The model's response is larger than {limit} bytes".encode(), {}, None)
                return Reply(response.status, content, response.headers, time.perf_counter() - began)
        except asyncio.CancelledError:
            if not self.deadlines.was_late(task):
                raise
            return Reply(0, TIMED_OUT, {}, None)
        except aiohttp.ClientError as error:
            return no_answer(str(error) or type(error).__name__)
        finally:
            self.deadlines.end(task)
            worker.in_flight -= 1


def passed(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a caller's headers those that the container sees."""
    return {key: headers[key] for key in _PASSED if key in headers}


def no_answer(why: str) -> Reply:
    return Reply(0, f"The container primary gave no answer: {why}".encode(), {}, None)


def model_error(endpoint: str, region: str, reply: Reply) -> AwsError:
    """ModelError, as "InvokeEndpoint" in the API reference has it."""
    text = reply.body[: 4 * _SHOWN].decode("utf-8", "replace")[:_SHOWN]
    side = "client" if 400 <= reply.status < 500 else "server"
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    message = (
        f'Received {side} error ({reply.status}) from primary with message "{text}". See the worker logs of the '
        f"endpoint service for {group} in account {ACCOUNT} for more information."
    )
    extra = {
        "OriginalStatusCode": reply.status,
        "OriginalMessage": text,
        "LogStreamArn": f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}",
    }
    return AwsError("ModelError", message, status=424, extra=extra)
