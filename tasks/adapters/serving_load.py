"""Ask a served model as clients do, several at a time, and time what they see.

The server is the inference container's own program as a child process on loopback. Each client sends its next request
when it has the last answer (a closed loop), and reads the answer token by token: the time to the first token and the
time to each following one are what it sees, queueing included.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Literal

import numpy as np

from tasks.adapters.children import guard, high_water, last_lines
from tasks.errors import SlimlineError

START_S, ANSWER_S, STOP_S = 600.0, 600.0, 40.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Served:
    """A running container."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class Timed:
    """One answer as its client saw it: seconds to the first token and from there to the last, and its tokens. Several
    tokens may arrive at once, so that single gaps say little: the usual time per token is the mean over an answer.
    """

    first: float
    rest: float
    tokens: int


@dataclass(frozen=True)
class Level:
    """What all clients of one level saw."""

    concurrency: int
    answers: tuple[Timed, ...]
    failed: int
    seconds: float
    peak_bytes: int

    @property
    def requests(self) -> int:
        return len(self.answers) + self.failed

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    def quantile(self, which: Literal["first", "token"], share: float) -> float:
        """Milliseconds; 0 where no answer has any."""
        if which == "first":
            seconds = [answer.first for answer in self.answers]
        else:
            seconds = [answer.rest / (answer.tokens - 1) for answer in self.answers if answer.tokens > 1]
        return 1e3 * float(np.quantile(seconds, share)) if seconds else 0.0


@contextmanager
def serve(folder: Path, threads: int) -> Iterator[Served]:
    """The container of this machine over ``folder``, ready to answer; ended with the block.

    Raises:
        SlimlineError: it ended, or was not ready in time, with what it said last.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    variables = {
        "SM_MODEL_DIR": folder.absolute(), "SAGEMAKER_BIND_TO_PORT": port, "SLIMLINE_BIND_HOST": HOST,
        "SLIMLINE_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": 0,
    }  # fmt: skip
    command = [*guard(), "env", *(f"{name}={value}" for name, value in variables.items())]
    command += [sys.executable, "-m", "tasks.serving.container", "serve"]
    with tempfile.TemporaryDirectory(prefix="slimline-load-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            served = Served(port, process, log)
            _wait_ready(served)
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(served: Served) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and served.process.poll() is None:
        try:
            connection = HTTPConnection(HOST, served.port, timeout=30)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # it does not listen yet
        finally:
            connection.close()
        time.sleep(0.1)
    raise SlimlineError(
        "the inference container did not become ready",
        observed=f"exit status {served.process.returncode}; it said last: {last_lines(served.log)}",
        limit=f"ready in {START_S:.0f} s",
        remedy="read its last lines; set evaluation.concurrency to [] to leave load out",
    )


def under_load(served: Served, prompts: Sequence[str], concurrency: int, requests: int, new_tokens: int) -> Level:
    """``requests`` requests from ``concurrency`` clients. A request that fails is counted, never retried.

    Raises:
        SlimlineError: none was answered.
    """
    bodies = [
        json.dumps(
            {"inputs": prompts[number % len(prompts)], "stream": True, "parameters": {"max_new_tokens": new_tokens}}
        )
        for number in range(requests)
    ]
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as clients:
        found = list(clients.map(lambda body: _ask(served.port, body), bodies))
    seconds = time.perf_counter() - began
    answers = tuple(answer for answer in found if answer is not None)
    if not answers:
        raise SlimlineError(
            "the inference container answered none of the requests",
            observed=f"{requests} failed; it said last: {last_lines(served.log)}",
            limit="at least one answer",
            remedy="read its last lines",
        )
    return Level(concurrency, answers, len(found) - len(answers), seconds, high_water(served.process.pid))


def _ask(port: int, body: str) -> Timed | None:
    """None where the answer was an error or broke off."""
    connection = HTTPConnection(HOST, port, timeout=ANSWER_S)
    try:
        began = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            return None
        seen: list[float] = []
        for line in reply:
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line[5:])
            if "error" in event:
                return None
            if event.get("generated_text") is None:  # the last event has no token of its own
                seen.append(time.perf_counter())
        return Timed(seen[0] - began, seen[-1] - seen[0], len(seen)) if seen else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
