"""Work in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_child(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What ``work`` answers in a new process, which does nothing else.

    Raises:
        BrokenProcessPool: a signal killed the process, where ``multiprocessing.Pool`` would wait for ever.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **named).result()
