"""Who wrote a record: the process, so that a later one can tell whether it still lives."""

from __future__ import annotations

import os
import socket

import psutil


def owner() -> str:
    """``host:pid:started`` of this process. A pid alone may since belong to somebody else."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_here(name: str) -> bool:
    """Whether the process is one of this host, so that ``is_alive`` can be asked."""
    return name.split(":")[0] == socket.gethostname()


def is_alive(name: str) -> bool:
    """Whether that process of this host still runs; one that has ended and was not yet waited for does not."""
    _, pid, *started = name.split(":")  # records of version 0.1.0 have no start time
    try:
        process = psutil.Process(int(pid))
        same = not started or abs(process.create_time() - float(started[0])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
