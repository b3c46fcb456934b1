"""The one thread that owns the model, and the bounded queue before it."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.serving.payload import BadRequest, Interrupted, Model, Request, Tell
from tasks.serving.reader_payload import QuestionRequest, reads_questions

log = logging.getLogger("slimline.container")

RESPONSE_SECONDS = 60  # SageMaker's limit for a real-time answer; nobody reads a later one
STUCK_SECONDS = 2 * RESPONSE_SECONDS


class Busy(Exception):
    """The queue is full, or the model has not loaded yet."""


class Failed(Exception):
    """The model raised, or took too long."""


@dataclass
class _Job:
    request: Request | QuestionRequest
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]  # an answer an input
    tell: Tell | None = None  # called in the event loop
    abandoned: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + RESPONSE_SECONDS)

    def over(self) -> bool:
        return self.abandoned or time.monotonic() > self.deadline

    def told(self, token: int, text: str) -> None:
        if self.tell is not None:
            self.loop.call_soon_threadsafe(self.tell, token, text)

    def settle(self, outcome: list[Any] | Exception) -> None:
        def set_now() -> None:
            if self.answer.done():
                return
            if isinstance(outcome, Exception):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)

        self.loop.call_soon_threadsafe(set_now)


class Worker:
    """Loads the model in its thread, proves it with one token, then serves the queue in order."""

    def __init__(self, folder: Path, threads: int, max_waiting: int) -> None:
        self._folder, self._threads, self._max_waiting = folder, threads, max_waiting
        self._jobs: queue.Queue[_Job] = queue.Queue()
        self._waiting = 0
        self._reason = "the model is loading"
        self._busy_since: float | None = None
        self.load_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._failed: Callable[[], None] = lambda: None

    def start(self, failed: Callable[[], None]) -> None:
        """``failed`` is called, in the worker's thread, when the model cannot be loaded."""
        self._failed = failed
        self._thread.start()

    def unwell(self) -> str:
        """Why this server should get no traffic now, or an empty string."""
        if self._reason:
            return self._reason
        if not self._thread.is_alive():
            return "the model's thread has ended"
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK_SECONDS:
            return f"one generation has run for more than {STUCK_SECONDS} s"
        return ""

    @property
    def generating(self) -> bool:
        return self._busy_since is not None

    async def ask(
        self,
        request: Request | QuestionRequest,
        gone: Awaitable[None],
        tell: Tell | None = None,
    ) -> list[Any]:
        """Queue ``request`` and wait. ``gone`` ends when the client hangs up; its work is then dropped.

        ``tell`` is called for each token of an answer while it grows, before this returns.

        Raises:
            Busy: not ready, or more than ``max_waiting`` requests wait.
            Failed: the model raised or ran out of time.
            BadRequest: the prompt does not fit the model.
        """
        watcher: asyncio.Future[Any] = asyncio.ensure_future(gone)
        loop = asyncio.get_running_loop()
        job = _Job(request, loop, loop.create_future(), tell)
        try:
            if reason := self.unwell():
                raise Busy(reason)
            # One is being generated, the others wait. The counter lives in the event loop's thread only.
            if self._waiting > self._max_waiting:
                raise Busy(f"{self._waiting - 1} waiting requests")
            self._waiting += 1
            try:
                self._jobs.put(job)
                await asyncio.wait({job.answer, watcher}, return_when=asyncio.FIRST_COMPLETED)
                if not job.answer.done():
                    raise Failed("the client hung up")
                answers: list[Any] = job.answer.result()
                return answers
            finally:
                self._waiting -= 1
        finally:
            job.abandoned = True
            watcher.cancel()

    def _run(self) -> None:
        generator = self._load()
        while generator is not None:
            job = self._jobs.get()
            if job.over():
                job.settle(Failed(f"waited longer than {RESPONSE_SECONDS} s"))
                continue
            self._busy_since = time.monotonic()
            try:
                job.settle(generator.generate(job.request, job.over, job.told if job.tell else None))
            except BadRequest as bad:
                job.settle(bad)
            except Exception as error:  # noqa: BLE001  # whatever the model raises is one 500, and the server lives on
                self._model_failed(generator, job, error)
            finally:
                self._busy_since = None

    def _load(self) -> Model | None:
        try:
            if not (self._folder / "config.json").is_file():
                raise FileNotFoundError("config.json: not a Hugging Face model folder")
            generator = open_model(self._folder, self._threads)
            generator.check()
        except Exception as error:  # noqa: BLE001  # any reason to not load ends the process, with the reason
            self.load_error = self._reason = (
                f"the model in {self._folder} did not load: {type(error).__name__}: {error}"
            )
            log.error("%s", self._reason)
            self._failed()
            return None
        self._reason = ""
        log.info("ready: %s", self._folder)
        return generator

    def _model_failed(self, generator: Model, job: _Job, error: Exception) -> None:
        if isinstance(error, Interrupted):
            job.settle(Failed(f"no answer within {RESPONSE_SECONDS} s: ask for fewer tokens"))
            return
        log.exception("generation failed")
        job.settle(Failed(f"the model failed: {type(error).__name__}: {error}"))
        try:
            generator.check()
        except Exception as broken:  # noqa: BLE001  # the model is dead: /ping says so, the platform replaces the container
            self._reason = f"the model no longer generates: {type(broken).__name__}: {broken}"
            log.error("%s", self._reason)


def open_model(folder: Path, threads: int) -> Model:
    """Load ``folder``: with ONNX Runtime when it holds an exported graph, with torch otherwise; a reader when its head
    answers questions.

    Raises whatever loading raises.
    """
    # Imported here, not at the top: torch takes seconds, /ping answers meanwhile, and an ONNX folder never needs it.
    if (folder / "model.onnx").is_file():
        from tasks.serving.onnx_generator import OnnxGenerator

        return OnnxGenerator(folder, threads)
    import torch

    from tasks.serving.generator import Generator

    torch.set_num_threads(threads)
    if reads_questions(folder):
        from tasks.serving.reader import Reader

        return Reader(folder)
    return Generator(folder)
