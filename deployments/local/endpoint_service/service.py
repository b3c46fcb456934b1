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
from deployments.local.endpoint_service.alarm_operations import Alarms
from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.app import App, Changes
from deployments.local.endpoint_service.async_inference import AsyncInference
from deployments.local.endpoint_service.async_metrics import Backlog
from deployments.local.endpoint_service.async_requests import Spool
from deployments.local.endpoint_service.capture import Capture
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.cloudwatch import CloudWatch
from deployments.local.endpoint_service.control import Control
from deployments.local.endpoint_service.dashboards import Dashboards
from deployments.local.endpoint_service.endpoints import Endpoints
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.hub import Hub
from deployments.local.endpoint_service.images import Images
from deployments.local.endpoint_service.inference import MODEL_SECONDS, Inference, Passed
from deployments.local.endpoint_service.joined import Protocol
from deployments.local.endpoint_service.journal import Journal
from deployments.local.endpoint_service.metrics import Metrics
from deployments.local.endpoint_service.modeldata import ModelData, s3_client
from deployments.local.endpoint_service.moto_backend import Moto
from deployments.local.endpoint_service.pages import Pages
from deployments.local.endpoint_service.reaper import Reaper
from deployments.local.endpoint_service.router import Router
from deployments.local.endpoint_service.s3_mirror import Mirror
from deployments.local.endpoint_service.scaling.book import Book
from deployments.local.endpoint_service.scaling.policies import Policies
from deployments.local.endpoint_service.scaling.scaler import Scaler
from deployments.local.endpoint_service.scaling.targets import Targets
from deployments.local.endpoint_service.snapshot import Snapshot
from deployments.local.endpoint_service.starting import Tools
from deployments.local.endpoint_service.state import State
from deployments.local.endpoint_service.streaming import STREAM_SECONDS, Streams
from deployments.local.endpoint_service.transform.jobs import TransformJobs
from deployments.local.endpoint_service.transform.run import S3
from deployments.local.endpoint_service.workers import free_port

_STOP_SECONDS = 2.0  # what a model server gets between SIGTERM and SIGKILL when the service goes
_TICK = 0.1  # wall seconds between looks for alarms that are due
_KEEP = 0.5  # wall seconds between looks for what jobs have changed


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
            request_class=Passed,
            cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookies are not another's
        ) as client:
            metrics, state, faults = Metrics(), State(options.region), Faults(clock)
            alarms = AlarmBook(metrics)
            data = ModelData(options.data / "models", moto.url, options.region)
            tools = Tools(
                clock, metrics, faults, images, reaper, client, data, logs, options.startup_limit, options.max_instances
            )
            endpoints = Endpoints(state, alarms, tools)
            book = Book(options.region)
            scaler = Scaler(book, state, endpoints, alarms, clock)
            policies = Policies(book, scaler, alarms, state.alarm_arn, clock)
            dashboards = Dashboards(clock)
            snapshot = Snapshot(options.data / "state.json", state, alarms, dashboards, book, clock)
            journal = Journal(options.data / "metrics.jsonl", metrics, alarms.history)
            mirror = Mirror(options.data / "s3", moto.url, options.region)
            capture = Capture(moto.url, options.region, clock, mirror.changed)
            inference = Inference(client, faults, options.model_limit)
            router = Router(state, inference, faults, capture)
            spool, backlog = Spool(options.data / "async"), Backlog(metrics, clock)
            queues = AsyncInference(state, router, inference, spool, backlog, clock, moto.url, mirror.changed)
            s3 = S3(lambda: s3_client(moto.url, options.region), mirror.changed)
            transforms = TransformJobs(state, tools, s3)
            app = App(
                clock,
                Control(state, clock).operations
                | Hub(options.region).operations
                | endpoints.operations
                | transforms.operations,
                CloudWatch(clock, metrics).operations
                | Alarms(clock, metrics, alarms, state.alarm_arn).operations
                | dashboards.operations,
                Targets(book, scaler, state, clock).operations | policies.operations,
                router,
                Streams(router, inference, faults, options.region, options.stream_limit),
                queues,
                moto,
                Pages(state, alarms, clock, faults, str(logs), lambda: moto.alive),
                faults,
                Changes(snapshot.save, mirror.changed),
            )
            running = _Running(
                app,
                moto,
                mirror,
                capture,
                queues,
                snapshot,
                journal,
                endpoints,
                transforms,
                inference,
                scaler,
                alarms,
                clock,
            )
            try:
                await running.until_stopped(listener)
            finally:
                await asyncio.gather(endpoints.stop(_STOP_SECONDS), transforms.stop())
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
    queues: AsyncInference
    snapshot: Snapshot
    journal: Journal
    endpoints: Endpoints
    transforms: TransformJobs
    inference: Inference
    scaler: Scaler
    alarms: AlarmBook
    clock: Clock

    async def until_stopped(self, listener: socket.socket) -> None:
        saved = self.snapshot.load()
        self.journal.load()
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
        self.transforms.revive()
        await self._serve(listener, ended)
        # Before the model servers end: what is saved is an endpoint that serves.
        self.snapshot.save()
        self.journal.write()
        await self.capture.write()
        await self.mirror.finish()

    async def _start_s3(self) -> None:
        await self.moto.start()
        await self.mirror.restore()

    async def _serve(self, listener: socket.socket, ended: asyncio.Future[Any]) -> None:
        server = _Server(_uvicorn(self.app))
        beside = [asyncio.create_task(each) for each in (self._tick(), self._keep(), self.mirror.follow())]
        beside += [asyncio.create_task(self.capture.follow()), asyncio.create_task(self.queues.follow())]
        beside += [asyncio.create_task(self.journal.follow())]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        gc.collect()
        gc.set_threshold(100_000, 20, 100)  # a request leaves hundreds of objects that die by themselves
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
            self.inference.deadlines.look()
            self.endpoints.sample()
            self.alarms.evaluate_due(self.clock.now())
            self.scaler.tick()
            await asyncio.sleep(_TICK)

    async def _keep(self) -> None:
        """Save what jobs have changed; operations save for themselves. Telling whether anything has changed takes
        milliseconds once there are dozens of endpoints.
        """
        while True:
            self.snapshot.save()
            await asyncio.sleep(_KEEP)


def _uvicorn(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,  # uvicorn's 5 s ends connections that a client is about to use again
    )


def _warm() -> None:
    """Read the service models before the first request needs them."""
    for service in ("sagemaker", "cloudwatch", "application-autoscaling"):
        validation.operations(service)
