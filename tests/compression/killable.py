"""One stage in a process of its own, to be killed: ``python -m tests.compression.killable STAGE HOME OUT PARTIAL``.

Prints ``ready`` when the work begins and a line for each layer or step as it is yielded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.compression import training_loop
from tasks.compression.distillation import distill_folder
from tasks.compression.finetuning import finetune_folder
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.resuming import Partial
from tasks.compression.slimming import slim_folder
from tests.compression.small import blocks


def work(stage: str, home: Path, out: Path, partial: Partial | None) -> Iterator[Any]:
    """The stage on the folders of ``home``."""
    if stage == "prune":
        return prune_folder(
            home / "teacher", out, blocks(16), method="sparsegpt", sparsity=0.0, pattern="2:4", partial=partial,
            keep_statistics=True,
        )  # fmt: skip
    if stage == "quantize":
        return quantize_folder(home / "teacher", out, blocks(16), method="gptq", bits=4, group_size=32, partial=partial)
    if stage == "slim":
        return slim_folder(home / "noisy", out, blocks(16), heads=0.5, channels=0.25, blocks=0.34, partial=partial)
    if stage.startswith("finetune"):
        return finetune_folder(
            home / "teacher", out, blocks(16), method="full" if stage == "finetune-full" else "lora", rank=4, epochs=3,
            batch_blocks=2, learning_rate=1e-3, seed=0, partial=partial,
        )  # fmt: skip
    student = home / stage.removeprefix("distill-")
    recipe: dict[str, Any] = {
        "epochs": 3, "batch_blocks": 2, "learning_rate": 3e-3, "temperature": 2.0, "hard_share": 0.1, "seed": 0,
    }  # fmt: skip
    return distill_folder(student, home / "teacher", out, blocks(16), **recipe, partial=partial)


if __name__ == "__main__":
    torch.set_num_threads(1)
    training_loop.SAVE_SECONDS = 0.0
    stage, home, out, folder = sys.argv[1], *map(Path, sys.argv[2:])
    partial = Partial(folder, lambda done: print(f"resumed {done}", flush=True))
    print("ready", flush=True)
    for item in work(stage, home, out, partial):
        print(getattr(item, "layer", None) or f"step {item.step}", flush=True)
    print("finished", flush=True)
