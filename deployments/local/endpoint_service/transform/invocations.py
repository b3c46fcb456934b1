"""A transform job's requests to one instance: ``POST /invocations`` for each payload, repeated where it may help."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from deployments.local.endpoint_service.starting import Tools
from deployments.local.endpoint_service.state import TransformJob
from deployments.local.endpoint_service.transform.records import assembled
from deployments.local.endpoint_service.wire import Json
from deployments.local.endpoint_service.workers import Worker

MB = 1024 * 1024
_PAYLOAD_MB, _PARALLEL = 6, 1  # where neither the request nor the container says
_TIMEOUT, _RETRIES = 600, 3  # ModelClientConfig's defaults: wall seconds, and repeats of a request
_BACK_OFF = 0.1  # wall seconds before the first repeat; doubled


class ObjectFailed(Exception):
    """One object has failed: AWS's kind of error, and what goes into the job's log."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


@dataclass(frozen=True)
class Limits:
    """How requests are made."""

    parallel: int
    payload: int  # bytes; 0 is no limit
    many: bool

    @classmethod
    def of(cls, request: Json, said: Json) -> Limits:
        """The request's, or the container's, or the defaults. A given MaxPayloadInMB of 0 is no limit."""
        size = request["MaxPayloadInMB"] if "MaxPayloadInMB" in request else said.get("MaxPayloadInMB", _PAYLOAD_MB)
        parallel = request.get("MaxConcurrentTransforms") or said.get("MaxConcurrentTransforms") or _PARALLEL
        strategy = request.get("BatchStrategy") or said.get("BatchStrategy") or "MultiRecord"
        return cls(int(parallel), int(size) * MB, strategy.replace("_", "").lower() == "multirecord")


class Invocations:
    """Asks ``worker``, at most ``parallel`` requests at a time."""

    def __init__(self, job: TransformJob, tools: Tools, worker: Worker, parallel: int) -> None:
        self._job, self._faults, self._client, self._worker = job.name, tools.faults, tools.client, worker
        self._parallel, self._turns = parallel, asyncio.Semaphore(parallel)
        client = job.request.get("ModelClientConfig") or {}
        self._timeout = aiohttp.ClientTimeout(total=client.get("InvocationsTimeoutInSeconds", _TIMEOUT))
        self._retries = client.get("InvocationsMaxRetries", _RETRIES)
        source, output = job.request["TransformInput"], job.request["TransformOutput"]
        headers = {"Content-Type": source.get("ContentType"), "Accept": output.get("Accept")}
        self._headers = {name: value for name, value in headers.items() if value}

    async def write(self, key: str, bodies: Iterator[bytes], answers: Path, lines: bool) -> None:
        """The answers to an object's payloads, in their order; at most ``parallel`` of them wait in memory.

        Raises:
            ObjectFailed: a payload was not answered.
        """
        waiting: deque[asyncio.Task[bytes]] = deque()
        try:
            with answers.open("wb") as out:
                for body in bodies:
                    waiting.append(asyncio.create_task(self._ask(key, body)))
                    if len(waiting) >= self._parallel:
                        out.write(assembled(await waiting.popleft(), lines))
                while waiting:
                    out.write(assembled(await waiting.popleft(), lines))
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _ask(self, key: str, body: bytes) -> bytes:
        """One request. Answers of 5xx and none at all are asked for again, 4xx are not."""
        async with self._turns:
            for attempt in range(self._retries + 1):
                if attempt:
                    await asyncio.sleep(_BACK_OFF * 2 ** (attempt - 1))
                status, content = await self._rehearsed() or await self._answer(body)
                if 200 <= status < 300:
                    return content
                if 400 <= status < 500:
                    break
        text = content[:512].decode("utf-8", "replace")
        what = (
            f"Bad HTTP status received from algorithm: {status}" if status else "Unable to get response from algorithm"
        )
        raise ObjectFailed("ClientError" if 400 <= status < 500 else "AlgorithmError", f"{key}: {what}: {text}")

    async def _answer(self, body: bytes) -> tuple[int, bytes]:
        """(status, body) of the model's answer; 0 where there was none."""
        try:
            async with self._client.post(
                f"{self._worker.url}/invocations", data=body, headers=self._headers, timeout=self._timeout
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, f"no answer: {error or type(error).__name__}".encode()

    async def _rehearsed(self) -> tuple[int, bytes] | None:
        """What a fault answers in the model's place; none where none does. One of latency takes its time here."""
        faults, job = self._faults, self._job
        if slow := faults.hit("latency", job=job):
            await asyncio.sleep(slow.seconds)
        if fault := faults.hit("errors", job=job):
            return fault.status, b'{"error": "a rehearsed fault"}'
        if faults.hit("dead_model", job=job) or faults.hit("connection_reset", job=job):
            return 0, b"no answer: a rehearsed fault"
        return None
