"""Model servers: one process for one instance, under SageMaker's container contract.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html: ``GET /ping`` within 2 s,
``POST /invocations``, SIGTERM and 30 s later SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from deployments.local.endpoint_service.reaper import ROOT, Reaper, environment, wrapped

PING_SECONDS = 2.0
KILL_SECONDS = 30.0
_PORTS = range(21_000, 31_000)  # below the kernel's range for outgoing connections, which would race for them
# Workers share the cores with everything else on this machine: a spinning OpenMP thread would take a whole one.
_QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class WorkerFailed(Exception):
    """The model server did not become healthy; the text is a FailureReason."""


@dataclass(frozen=True)
class Program:
    """What an instance runs. ``startup_seconds`` is wall time: a model loads as fast as this machine can."""

    command: tuple[str, ...]
    model_dir: Path
    environment: Mapping[str, str]
    startup_seconds: float


class Worker:
    """One instance. The router reads ``healthy``, ``url`` and counts; the fleet starts and stops it."""

    def __init__(self, label: str, program: Program, log: Path, reaper: Reaper) -> None:
        self.id = f"i-{uuid.uuid4().hex[:17]}"
        self.label = label
        self.healthy = False
        self.in_flight = 0
        self.requests = 0
        self.errors_4xx = 0
        self.errors_5xx = 0
        self.restarts = 0
        self.url = ""
        self.invocations = URL()
        self._program = program
        self._log = log
        self._reaper = reaper
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._watcher: asyncio.Task[None] | None = None

    @property
    def model_dir(self) -> Path:
        """Where its model's files are."""
        return self._program.model_dir

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, client: aiohttp.ClientSession) -> None:
        """Start the process and wait until ``/ping`` answers 200. Raises ``WorkerFailed``; nothing is left then."""
        try:
            await self._spawn()
            await self._wait_healthy(client)
        except BaseException:  # a cancelled start too leaves no process
            await self.stop(grace=1.0)
            raise
        self.healthy = True
        self._watcher = asyncio.create_task(self._watch(client))

    async def stop(self, grace: float = KILL_SECONDS) -> None:
        """SIGTERM to the process group, SIGKILL after ``grace`` wall seconds."""
        self._stopping, self.healthy = True, False
        if self._watcher and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        if self._process:
            await self._end(self._process, grace)

    async def drained(self, limit: float) -> None:
        """Wait until no request is under way, at most ``limit`` wall seconds."""
        deadline = time.monotonic() + limit
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _spawn(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.invocations = URL(f"{self.url}/invocations")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        settings = {"SM_MODEL_DIR": str(self._program.model_dir), "SAGEMAKER_BIND_TO_PORT": str(port)}
        settings |= {"SLIMLINE_BIND_HOST": "127.0.0.1"}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *wrapped(self._program.command),
                cwd=ROOT,
                env=environment() | _QUIET | dict(self._program.environment) | settings,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._reaper.watch(self._process.pid)

    async def _wait_healthy(self, client: aiohttp.ClientSession) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._program.startup_seconds
        last = "no answer yet"
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                raise WorkerFailed(self._unhealthy(f"it exited with status {self._process.returncode}"))
            try:
                async with client.get(f"{self.url}/ping", timeout=aiohttp.ClientTimeout(total=PING_SECONDS)) as answer:
                    if answer.status == 200:
                        return
                    last = f"/ping answered {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                last = f"/ping: {error or type(error).__name__}"
            await asyncio.sleep(0.05)
        raise WorkerFailed(self._unhealthy(f"{last} within {self._program.startup_seconds:g} s of wall time"))

    def _unhealthy(self, why: str) -> str:
        # The first sentence is SageMaker's own.
        return (
            f"The primary container for production variant {self.label} did not pass the ping health check. "
            f"Please check CloudWatch logs for this endpoint. ({why}; log: {self._log.name})"
        )

    async def _watch(self, client: aiohttp.ClientSession) -> None:
        """Start a crashed model server again, as SageMaker replaces an instance."""
        while not self._stopping:
            assert self._process is not None
            await self._process.wait()
            self.healthy = False
            self._reaper.forget(self._process.pid)
            self.restarts += 1
            await asyncio.sleep(min(10.0, 0.5 * self.restarts))
            try:
                await self._spawn()
                await self._wait_healthy(client)
                self.healthy = True
            except (WorkerFailed, OSError):
                if self._process.returncode is None:
                    await self._end(self._process, 1.0)

    async def _end(self, process: asyncio.subprocess.Process, grace: float) -> None:
        if process.returncode is not None:
            return  # ended long ago: its number may be another process's by now
        for sign, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what the model server started and left behind
        self._reaper.forget(process.pid)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    for port in random.sample(_PORTS, 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise WorkerFailed("No free loopback port for a model server.")
