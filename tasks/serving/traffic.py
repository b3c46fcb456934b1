"""Rehearsal traffic: real prompts at a steady rate, whatever the answers do.

Open loop: requests leave on the clock, not when the last one has come back, so a slow server sees its queue grow as it
would with real users (Schroeder, Wierman, Harchol-Balter: Open Versus Closed: A Cautionary Tale, NSDI 2006). Bounded in
rate, in time, and in requests under way.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MAX_RATE = 50.0
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Traffic:
    """What was sent. ``skipped`` left too late: as many requests as allowed were still under way."""

    sent: int
    ok: int
    failed: int
    skipped: int
    seconds: float


class _Counts:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ok = self.failed = 0

    def add(self, ok: bool) -> None:
        with self.lock:
            if ok:
                self.ok += 1
            else:
                self.failed += 1


def send_traffic(
    send: Callable[[str], int],
    prompts: Sequence[str],
    rate: float,
    stop: threading.Event,
    max_seconds: float,
    max_under_way: int = 16,
) -> Traffic:
    """Send ``rate`` prompts a second, in turn, until ``stop`` is set or ``max_seconds`` have passed.

    Returns when the last answer is there.

    Args:
        send: Sends one prompt and returns the HTTP status; what it raises counts as failed.
        prompts: At least one.
        rate: Requests a second, above 0 and at most 50.
        max_seconds: At most 3600.

    Raises:
        ValueError: an argument is out of its bounds.
    """
    if not prompts:
        raise ValueError("prompts: observed none, limit at least 1")
    if not 0 < rate <= MAX_RATE or not 0 < max_seconds <= MAX_SECONDS:
        raise ValueError(f"rate {rate}, max_seconds {max_seconds}: limits {MAX_RATE} and {MAX_SECONDS}, both above 0")
    counts, under_way = _Counts(), threading.Semaphore(max_under_way)

    def one(prompt: str) -> None:
        try:
            counts.add(200 <= send(prompt) < 300)
        except Exception:  # noqa: BLE001  # a failed request is a figure here; the release is judged by the service's metrics
            counts.add(False)
        finally:
            under_way.release()

    begun = time.monotonic()
    sent = skipped = 0
    with ThreadPoolExecutor(max_under_way, thread_name_prefix="traffic") as pool:
        for number, prompt in enumerate(itertools.cycle(prompts)):
            due = begun + number / rate
            if due - begun >= max_seconds or stop.wait(max(0.0, due - time.monotonic())):
                break
            if under_way.acquire(blocking=False):
                sent += 1
                pool.submit(one, prompt)
            else:
                skipped += 1
    return Traffic(sent, counts.ok, counts.failed, skipped, time.monotonic() - begun)
