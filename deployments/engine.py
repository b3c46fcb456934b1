"""The process of one flow run, as the work pool starts it: ``python -m deployments.engine``.

It is Prefect's own engine (``command`` of https://docs.prefect.io/v3/concepts/work-pools), started once: without one
a process worker starts Python twice, first to prepare a workspace that here is the installed package. Nothing that an
import makes is garbage, so the collector, which would look through all of it again and again, waits until all is in:
a fifth of the start.
"""

from __future__ import annotations

import gc
import runpy

gc.disable()


def main() -> None:
    import flows.release  # noqa: F401 - most of what any flow imports

    gc.freeze()
    gc.enable()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
