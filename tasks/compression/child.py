"""The other side of ``tasks/stage_child.py``: one call of this package in a process of its own.

Started as ``python -m tasks.compression.child``. The job is one line of JSON on standard input, which stays open: when
it ends, so does this process, so none outlives the one that started it. What happens is told on standard output, one
JSON object a line: ``resumed`` (finished parts), ``item`` (what the call yields), and last ``done`` (peak resident
bytes) or ``refused`` (a ``SlimlineError``), ``memory`` or ``failed``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.compression.lean import import_little
from tasks.errors import SlimlineError, is_out_of_memory

Tell = Callable[..., None]
_PASSES = {
    "prune_folder": "tasks.compression.layerwise",
    "quantize_folder": "tasks.compression.layerwise",
    "prune_by_sensitivity": "tasks.compression.budget",
    "quantize_to_budget": "tasks.compression.budget",
    "slim_folder": "tasks.compression.slimming",
    "distill_folder": "tasks.compression.distillation",
    "finetune_folder": "tasks.compression.finetuning",
}
TRAININGS = ("distill_folder", "finetune_folder")


def main() -> None:
    # What a library prints goes to standard error: the pipe is for JSON.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(**said: Any) -> None:
        pipe.write(json.dumps(said) + "\n")

    try:
        work(job, tell)
    except SlimlineError as error:
        parts = {"cause": error.cause, "observed": str(error.observed), "limit": str(error.limit)}
        tell(refused={**parts, "remedy": error.remedy}, kind=type(error).__name__)
    except MemoryError as error:
        tell(memory=str(error) or "MemoryError")
    except OSError as error:
        tell(failed=traceback.format_exc(), errno=error.errno, text=error.strerror)
    except RuntimeError as error:
        tell(**({"memory": str(error)} if is_out_of_memory(error) else {"failed": traceback.format_exc()}))


def work(job: dict[str, Any], tell: Tell) -> None:
    """Make the call that ``job`` describes and tell what it yields."""
    if job["function"] not in TRAININGS:
        import_little()
    import importlib

    import numpy as np
    import torch

    from tasks.compression.resuming import Partial
    from tasks.compression.walking import use_less_memory

    torch.set_num_threads(job["threads"])
    use_less_memory(job["halvings"])
    tokens = torch.from_numpy(np.load(job["tokens"], allow_pickle=False))
    partial = Partial(Path(job["partial"]), lambda done: tell(resumed=done))
    function = getattr(importlib.import_module(_PASSES[job["function"]]), job["function"])
    folders = [Path(folder) for folder in job["folders"]]
    for item in function(*folders, tokens, **job["arguments"], partial=partial):
        tell(item=item.model_dump() if hasattr(item, "model_dump") else dataclasses.asdict(item))
    tell(done=_peak())


def _peak() -> int:
    """Peak resident bytes. Not ru_maxrss on Linux: that begins at the resident memory of the starting process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
