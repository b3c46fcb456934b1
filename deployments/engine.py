"""The process of one flow run, as the work pool starts it: ``python -m deployments.engine``.

It is Prefect's own engine (``command`` of https://docs.prefect.io/v3/concepts/work-pools), started once: without one
a process worker starts Python twice, first to prepare a workspace that here is the installed package. Nothing that an
import makes is garbage, so the collector, which would look through all of it again and again, waits until all is in:
a fifth of the start.
"""

from __future__ import annotations

import functools
import gc
import inspect
import runpy

_HEARTBEATS = "_send_heartbeats"


def end_at_once() -> None:
    """A flow, and each subflow, ends when it is done.

    Prefect waits at its end for the thread that sends its heartbeats, which looks once a second whether it is over:
    half a second a flow. That thread sends nothing any more then, and async flows do not wait for it
    (``join_on_exit``). Where a later Prefect does this another way it is left as it is.
    """
    from prefect import flow_engine

    wait = getattr(flow_engine, _HEARTBEATS, None)
    if wait is not None and "join_on_exit" in inspect.signature(wait).parameters:
        setattr(flow_engine, _HEARTBEATS, functools.partial(wait, join_on_exit=False))


def main() -> None:
    gc.disable()
    import flows.release  # noqa: F401 - most of what any flow imports

    end_at_once()
    gc.freeze()
    gc.enable()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
