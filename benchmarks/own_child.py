"""Slimline's side of ``benchmarks.compression``, run as a child process: ``python -m benchmarks.own_child JOB``.

The job is a JSON object. With ``folders``: the perplexity of each, on ``tokens``. Otherwise the same job that an engine
gets (``tasks/adapters/engine_runs.py``): compress ``source`` into ``destination``. The answer goes to ``report``.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.compression.lean import import_little

if TYPE_CHECKING:
    import torch


def main(job: dict[str, Any]) -> None:
    if "folders" not in job:
        import_little()
    import numpy as np
    import torch

    import tasks.compression.layerwise  # noqa: F401  (before the clock starts)

    torch.set_num_threads(job["threads"])
    tokens = torch.from_numpy(np.load(job["tokens"], allow_pickle=False))
    if "folders" in job:
        report: dict[str, Any] = {"folders": [_measure(Path(folder), tokens) for folder in job["folders"]]}
    else:
        began = time.perf_counter(), time.process_time()
        _compress(job, tokens)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        report = {"work_wall_s": wall, "work_cpu_s": cpu, "versions": {"torch": torch.__version__}}
        report |= {"device": _device_name(), "device_peak_bytes": torch.cuda.max_memory_allocated()}
    Path(job["report"]).write_text(json.dumps(report))


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _compress(job: dict[str, Any], tokens: torch.Tensor) -> None:
    from tasks.compression.layerwise import prune_folder, quantize_folder

    source, destination = Path(job["source"]), Path(job["destination"])
    prune, quantize = job["recipe"].get("prune"), job["recipe"].get("quantize")
    with tempfile.TemporaryDirectory(dir=destination.parent) as name:
        if prune:
            pruned = Path(name) / "pruned" if quantize else destination
            # As the flow does it: quantization after pruning uses pruning's statistics.
            list(prune_folder(source, pruned, tokens, **prune, seed=job["seed"], keep_statistics=bool(quantize)))
            source = pruned
        if quantize:
            list(quantize_folder(source, destination, tokens, **quantize))


def _measure(folder: Path, tokens: torch.Tensor) -> dict[str, float]:
    """Perplexity of the reloaded folder, its bytes, and the share of zeros in its linear layers.

    The GPTQ format is read as the same codes in our own.
    """
    import torch

    from tasks.compression.checkpoint import Checkpoint
    from tasks.compression.folder_facts import describe
    from tasks.compression.gptq_format import gptq_packing, repack_gptq
    from tasks.compression.loading import load_for_compute
    from tasks.compression.scoring import folder_bytes

    size = folder_bytes(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        if gptq_packing(Checkpoint(folder).config) is not None:
            repack_gptq(folder, Path(name) / "model")
            folder = Path(name) / "model"
        zeros = describe(folder).sparsity
        model = load_for_compute(folder)
        total = 0.0
        with torch.inference_mode():
            for block in tokens:
                logits = model(input_ids=block.unsqueeze(0), use_cache=False).logits[0, :-1].float()
                total += float(torch.nn.functional.cross_entropy(logits, block[1:], reduction="sum"))
    return {
        "perplexity": math.exp(total / (tokens.shape[0] * (tokens.shape[1] - 1))),
        "disk_bytes": size,
        "zeros": zeros,
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
