"""One stage in a process of its own, to be killed.

Processes are forked from one that has done what is done once (``multiprocessing``'s fork server, ``warm``).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from tasks.compression import training_loop
from tasks.compression.budget import prune_by_sensitivity, quantize_to_budget
from tasks.compression.casting import cast_folder
from tasks.compression.distillation import distill_folder
from tasks.compression.finetuning import finetune_folder
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.resuming import Partial
from tasks.compression.slimming import slim_folder
from tests.compression.small import blocks

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "tests.compression.warm"])


def work(stage: str, home: Path, out: Path, partial: Partial | None) -> Iterator[Any]:
    """The stage on the folders of ``home``."""
    if stage == "prune":
        return prune_folder(
            home / "teacher", out, blocks(16), method="sparsegpt", sparsity=0.0, pattern="2:4", partial=partial,
            keep_statistics=True,
        )  # fmt: skip
    if stage == "prune-sensitivity":
        return prune_by_sensitivity(home / "teacher", out, blocks(16), method="wanda", sparsity=0.5, partial=partial)
    if stage in ("quantize", "quantize-kept"):
        source = home / ("teacher" if stage == "quantize" else "pruned")
        return quantize_folder(source, out, blocks(16), method="gptq", bits=4, group_size=32, partial=partial)
    if stage == "quantize-kept-budget":
        return quantize_to_budget(
            home / "pruned", out, blocks(16), method="rtn", mean_bits=4.0, group_size=32, partial=partial
        )
    if stage == "cast":
        return cast_folder(home / "teacher", out, torch.bfloat16, partial)
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


def run(stage: str, home: Path, out: Path, folder: Path, told: Connection) -> None:
    """The stage; says ``ready`` when the work begins, and each layer or step as it is yielded."""
    torch.set_num_threads(1)
    training_loop.SAVE_SECONDS = 0.0
    partial = Partial(folder, lambda done: told.send(f"resumed {done}"))
    told.send("ready")
    for item in work(stage, home, out, partial):
        told.send(getattr(item, "layer", None) or f"step {item.step}")
    told.send("finished")
