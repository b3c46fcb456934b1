"""Time limits of requests to model servers: one look at all of them several times a second, not a timer for each.

A timer costs a request more than routing does. The price: a limit may be passed by the time between two looks.
"""

from __future__ import annotations

import asyncio
import time


class Deadlines:
    """Cancels tasks whose time is over. A task has one limit at a time."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()

    def begin(self, seconds: float) -> asyncio.Task[object]:
        """The running task may take so many wall seconds from now, until ``end``."""
        task = asyncio.current_task()
        assert task is not None
        self._until[task] = time.monotonic() + seconds
        return task

    def end(self, task: asyncio.Task[object]) -> None:
        """It has ended in time, or not."""
        self._until.pop(task, None)
        self._late.discard(task)

    def look(self) -> None:
        """Cancel what is late, once."""
        now = time.monotonic()
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            self._late.add(task)
            task.cancel()

    def was_late(self, task: asyncio.Task[object]) -> bool:
        """Of a cancelled task: whether that came from here alone; then it goes on (as in ``asyncio.timeout``)."""
        return task in self._late and task.uncancel() == 0
