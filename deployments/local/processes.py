"""Long-running processes of the embedded stack: started detached, remembered by pid *and* start time, ended only
when both still match.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Started:
    """A process of ours. A pid alone may since belong to somebody else."""

    name: str
    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive and abs(process.create_time() - self.created) < 1.0 else None


class Processes:
    """The pid files and logs below one folder."""

    def __init__(self, home: Path) -> None:
        self.pids = home / "run"
        self.logs = home / "logs"

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Started:
        """Start ``command`` in a session of its own, so that closing the terminal does not end it."""
        self.pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                list(command),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started = Started(name, child.pid, psutil.Process(child.pid).create_time())
        (self.pids / f"{name}.json").write_text(json.dumps(asdict(started)))
        return started

    def find(self, name: str) -> Started | None:
        """The process called ``name``, if it is alive."""
        record = self.pids / f"{name}.json"
        if not record.exists():
            return None
        started = Started(**json.loads(record.read_text()))
        return started if started.process() else None

    def stop(self, name: str) -> bool:
        """End ``name`` and its children; True when there was something to end."""
        started = self.find(name)
        process = started.process() if started else None
        (self.pids / f"{name}.json").unlink(missing_ok=True)
        if process is None:
            return False
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for left in alive:
            left.kill()
        psutil.wait_procs(alive, timeout=5)
        return True

    def tail(self, name: str, lines: int = 15) -> str:
        log = self.logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a GET of ``url`` is answered with a 2xx."""
    try:
        # No proxy: these are loopback addresses of our own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as response:
            return bool(200 <= response.status < 300)
    except (urllib.error.URLError, OSError):
        return False


def wait_until(url: str, started: Started, timeout: float) -> bool:
    """Poll ``url`` until it answers, the process dies, or ``timeout`` seconds have passed."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answers(url):
            return started.process() is not None  # else another program has its port, and answers in its place
        if started.process() is None:
            return False
        time.sleep(0.3)
    return False


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would send a child to another Prefect, MLflow or AWS."""
    dropped = ("PREFECT_", "MLFLOW_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
