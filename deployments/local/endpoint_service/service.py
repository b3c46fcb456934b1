"""The service put together, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from deployments.local.endpoint_service import validation
from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.app import App, Changes
from deployments.local.endpoint_service.capture import Capture
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.cloudwatch import CloudWatch
from deployments.local.endpoint_service.control import Control
from deployments.local.endpoint_service.endpoints import Endpoints
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Tools
from deployments.local.endpoint_service.images import Images
from deployments.local.endpoint_service.inference import MODEL_SECONDS, Inference
from deployments.local.endpoint_service.metrics import Metrics
from deployments.local.endpoint_service.modeldata import ModelData
from deployments.local.endpoint_service.moto_backend import Moto
from deployments.local.endpoint_service.pages import Pages
from deployments.local.endpoint_service.reaper import Reaper
from deployments.local.endpoint_service.router import Router
from deployments.local.endpoint_service.s3_mirror import Mirror
from deployments.local.endpoint_service.snapshot import Snapshot
from deployments.local.endpoint_service.state import State
from deployments.local.endpoint_service.streaming import STREAM_SECONDS, Streams
from deployments.local.endpoint_service.workers import free_port

_STOP_SECONDS = 2.0  # what a model server gets between SIGTERM and SIGKILL when the service goes
_NO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # the container sees the caller's only
_TICK = 0.1  # wall seconds between looks for alarms that are due


@dataclass(frozen=True)
class Options:
    """The command line."""

    data: Path
    port: int = 5601
    speed: float = 1.0
    s3_port: int = 0  # 0: any free one
    region: str = "us-east-1"
    startup_limit: float = 600.0
    max_instances: int = 32
    model_limit: float = MODEL_SECONDS
    stream_limit: float = STREAM_SECONDS
    runtimes: tuple[str, ...] = field(default_factory=tuple)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: SIGTERM must stop our workers before the process ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: Options, listener: socket.socket) -> None:
    """Run until SIGTERM or SIGINT. Whatever was started is stopped at the end."""
    clock = Clock(options.speed)
    images = Images(options.runtimes)
    reaper = Reaper()
    logs = options.data / "logs"
    moto = Moto(options.s3_port or free_port(), logs / "moto.log", reaper, clock)
    # No pooled connection may be older than a model server's keep-alive (5 s for uvicorn): no request is lost to that.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    timeout = aiohttp.ClientTimeout(total=options.model_limit)
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            skip_auto_headers=_NO_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookies are not another's
        ) as client:
            metrics, state, faults = Metrics(), State(options.region), Faults(clock)
            alarms = AlarmBook(metrics)
            data = ModelData(options.data / "models", moto.url, options.region)
            tools = Tools(
                clock, metrics, faults, images, reaper, client, data, logs, options.startup_limit, options.max_instances
            )
            endpoints = Endpoints(state, alarms, tools)
            snapshot = Snapshot(options.data / "state.json", state, alarms, clock)
            mirror = Mirror(options.data / "s3", moto.url, options.region)
            capture = Capture(moto.url, options.region, clock, mirror.changed)
            inference = Inference(client, faults)
            router = Router(state, inference, faults, capture)
            app = App(
                clock,
                Control(state, clock).operations | endpoints.operations,
                CloudWatch(clock, metrics, alarms, state.alarm_arn).operations,
                router,
                Streams(router, inference, faults, options.region, options.stream_limit),
                moto,
                Pages(state, alarms, clock, faults, str(logs), lambda: moto.alive),
                faults,
                Changes(snapshot.save, mirror.changed),
            )
            running = _Running(app, moto, mirror, capture, snapshot, endpoints, alarms, clock)
            try:
                await running.until_stopped(listener)
            finally:
                await endpoints.stop(_STOP_SECONDS)
    finally:
        await moto.stop()
        reaper.close()


@dataclass(frozen=True)
class _Running:
    """From the first process to the last answer."""

    app: App
    moto: Moto
    mirror: Mirror
    capture: Capture
    snapshot: Snapshot
    endpoints: Endpoints
    alarms: AlarmBook
    clock: Clock

    async def until_stopped(self, listener: socket.socket) -> None:
        saved = self.snapshot.load()
        stopping = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, stopping.set)
        starting = asyncio.gather(self._start_s3(), asyncio.to_thread(_warm))
        ended = asyncio.ensure_future(stopping.wait())
        waiting: set[asyncio.Future[Any]] = {starting, ended}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            starting.cancel()
            return
        await starting  # raises what went wrong
        for each in saved:
            self.endpoints.revive(each)
        await self._serve(listener, ended)
        # Before the model servers end: what is saved is an endpoint that serves.
        self.snapshot.save()
        await self.capture.write()
        await self.mirror.finish()

    async def _start_s3(self) -> None:
        await self.moto.start()
        await self.mirror.restore()

    async def _serve(self, listener: socket.socket, ended: asyncio.Future[Any]) -> None:
        server = _Server(_uvicorn(self.app))
        beside = [asyncio.create_task(self._tick()), asyncio.create_task(self.mirror.follow())]
        beside.append(asyncio.create_task(self.capture.follow()))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        gc.collect()
        gc.set_threshold(10_000, 10, 10)  # a request leaves hundreds of objects that die by themselves
        gc.freeze()  # service models and code live as long as the process: no collection need look at them again
        host, port = listener.getsockname()
        print(f"slimline-endpoint-service listening on http://{host}:{port} (clock {self.clock.speed:g}x)", flush=True)
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        for task in (*beside, ended):
            task.cancel()
        await serving

    async def _tick(self) -> None:
        while True:
            self.alarms.evaluate_due(self.clock.now())
            self.snapshot.save()  # a job may have moved an endpoint on
            await asyncio.sleep(_TICK)


def _uvicorn(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


def _warm() -> None:
    """Read the service models before the first request needs them."""
    for service in ("sagemaker", "cloudwatch"):
        validation.operations(service)
