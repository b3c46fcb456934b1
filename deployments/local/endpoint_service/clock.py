"""The service's clock. It may run faster than the wall clock, so that a ten-minute bake takes seconds.

Waiting that SageMaker or CloudWatch decides (bakes, alarm periods) is virtual. Work that this machine does (loading a
model, answering a request) takes the time it takes: processes do not run faster because a clock does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate


class Clock:
    """Virtual seconds since the epoch: starts at the wall clock, then runs ``speed`` times as fast."""

    def __init__(
        self, speed: float = 1.0, *, start: float | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0.1 <= speed <= 3600:
            raise ValueError(f"speed must lie between 0.1 and 3600, not {speed}")
        self.speed = speed
        self._monotonic = monotonic
        self._origin = monotonic()
        self._start = time.time() if start is None else start
        self._date = (0, b"")

    def now(self) -> float:
        """Virtual seconds since the epoch."""
        return self._start + (self._monotonic() - self._origin) * self.speed

    def advance_to(self, seconds: float) -> None:
        """Never behind a time that was shown before."""
        self.jump(max(0.0, seconds - self.now()))

    def jump(self, seconds: float) -> None:
        """Go forward at once, as a machine's clock does when it is set."""
        self._start += seconds

    async def sleep(self, seconds: float) -> None:
        """Sleep that many virtual seconds."""
        await asyncio.sleep(max(0.0, seconds) / self.speed)

    def http_date(self) -> bytes:
        """The virtual time as an HTTP ``Date`` header, so that a client can take the service's time from any answer."""
        second = int(self.now())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]
