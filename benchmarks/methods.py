"""What each method costs and leaves: ``python -m benchmarks.methods``.

Every row compresses the default model afresh with the same calibration tokens and measures the reloaded folder against
the original on the same held-out blocks. Quality and bytes are exact and repeat; wall time depends on what else the
machine does, CPU time less so. ``--quick`` takes the seeded two-block model and random tokens: it shows that the
benchmark works, and its figures mean nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import in_child
from benchmarks.compression_stages import model_folder, token_files
from tasks.recipes import DataChoice

SPARSE = {"damping": 0.01}
GRID = {"symmetric": True, "damping": 0.01}
ZERO_POINTS = {"symmetric": False, "damping": 0.01}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitude 50 %": ("prune", SPARSE | {"method": "magnitude", "sparsity": 0.5}),
    "Wanda 50 %": ("prune", SPARSE | {"method": "wanda", "sparsity": 0.5}),
    "SparseGPT 50 %": ("prune", SPARSE | {"method": "sparsegpt", "sparsity": 0.5}),
    "SparseGPT 20 %": ("prune", SPARSE | {"method": "sparsegpt", "sparsity": 0.2}),
    "Wanda 2:4": ("prune", SPARSE | {"method": "wanda", "sparsity": 0.5, "pattern": "2:4"}),
    "SparseGPT 2:4": ("prune", SPARSE | {"method": "sparsegpt", "sparsity": 0.5, "pattern": "2:4"}),
    "SparseGPT 4:8": ("prune", SPARSE | {"method": "sparsegpt", "sparsity": 0.5, "pattern": "4:8"}),
    "SparseGPT 50 % sens": ("prune by layer", SPARSE | {"method": "sparsegpt", "sparsity": 0.5}),
    "channels 25 %": ("slim", SPARSE | {"heads": 0.0, "channels": 0.25, "blocks": 0.0}),
    "heads 33 %": ("slim", SPARSE | {"heads": 0.34, "channels": 0.0, "blocks": 0.0}),
    "blocks 10 %": ("slim", SPARSE | {"heads": 0.0, "channels": 0.0, "blocks": 0.1}),
    "round 4 bit g64": ("quantize", GRID | {"method": "rtn", "bits": 4, "group_size": 64}),
    "GPTQ 8 bit g64": ("quantize", GRID | {"method": "gptq", "bits": 8, "group_size": 64}),
    "GPTQ 4 bit g32": ("quantize", GRID | {"method": "gptq", "bits": 4, "group_size": 32}),
    "GPTQ 4 bit g64": ("quantize", GRID | {"method": "gptq", "bits": 4, "group_size": 64}),
    "GPTQ 4 bit row": ("quantize", GRID | {"method": "gptq", "bits": 4, "group_size": 0}),
    "GPTQ 3 bit g64": ("quantize", GRID | {"method": "gptq", "bits": 3, "group_size": 64}),
    "GPTQ 2 bit g64": ("quantize", GRID | {"method": "gptq", "bits": 2, "group_size": 64}),
    "GPTQ 4 asym g64": ("quantize", ZERO_POINTS | {"method": "gptq", "bits": 4, "group_size": 64}),
    "GPTQ 3 asym g64": ("quantize", ZERO_POINTS | {"method": "gptq", "bits": 3, "group_size": 64}),
    "GPTQ 2 asym g64": ("quantize", ZERO_POINTS | {"method": "gptq", "bits": 2, "group_size": 64}),
    "W8A8": ("w8a8", GRID | {"method": "gptq", "bits": 8, "group_size": 0}),
    "float16": ("cast", {"name": "float16"}),
    "bfloat16": ("cast", {"name": "bfloat16"}),
    "GPTQ mean 4.25": ("quantize by layer", GRID | {"method": "gptq", "mean_bits": 4.25, "group_size": 64}),
    "GPTQ mean 3.75": ("quantize by layer", GRID | {"method": "gptq", "mean_bits": 3.75, "group_size": 64}),
    "GPTQ mean 3.25": ("quantize by layer", GRID | {"method": "gptq", "mean_bits": 3.25, "group_size": 64}),
}


@dataclass(frozen=True)
class Row:
    """One method: bytes and perplexity ÷ the original's, share of same next tokens, KL in nats, seconds."""

    method: str
    bytes_ratio: float
    perplexity_ratio: float
    agreement: float
    kl: float
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality, bytes and time of each pruning and quantization method.")
    parser.add_argument("--model", help="a Hugging Face folder; the default model when left out")
    parser.add_argument("--rows", help="comma-separated parts of row names; all when left out")
    parser.add_argument("--blocks", type=int, default=16, help="calibration blocks of 256 tokens")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; torch decides when 0")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, in seconds")
    options = parser.parse_args()
    wanted = [part.strip().lower() for part in (options.rows or "").split(",")]
    names = [name for name in ROWS if any(part in name.lower() for part in wanted)]
    if not options.json:
        print(f"{'method':20}{'bytes':>7}{'ppl':>8}{'agree':>7}{'KL':>8}{'wall s':>8}{'CPU s':>8}", flush=True)
    for row in measure(names, options.model, options.blocks, options.threads, quick=options.quick):
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
            continue
        figures = f"{row.bytes_ratio:7.3f}{row.perplexity_ratio:8.3f}{row.agreement:7.3f}{row.kl:8.4f}"
        print(f"{row.method:20}{figures}{row.wall_s:8.1f}{row.cpu_s:8.1f}", flush=True)


def measure(names: list[str], model: str | None, blocks: int, threads: int, *, quick: bool) -> Iterator[Row]:
    """A row a method as it is done, each in a child process of its own."""
    data = DataChoice(calibration_blocks=blocks)
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        original = model_folder(model, quick, work)
        calibration, _, evaluation = token_files(original, data, quick, work)
        for number, method in enumerate(names):
            print(f"{method} …", file=sys.stderr, flush=True)
            yield in_child(_row, method, original, work / f"{number}", calibration, evaluation, threads)


def _row(method: str, original: Path, destination: Path, calibration: Path, evaluation: Path, threads: int) -> Row:
    import shutil

    import numpy as np
    import torch

    from tasks.compression.budget import prune_by_sensitivity, quantize_to_budget
    from tasks.compression.casting import CASTS, cast_folder
    from tasks.compression.conversion import convert_folder
    from tasks.compression.layerwise import prune_folder, quantize_folder
    from tasks.compression.scoring import score_pair
    from tasks.compression.slimming import slim_folder

    if threads:
        torch.set_num_threads(threads)
    tokens, held_out = (torch.from_numpy(np.load(file, allow_pickle=False)) for file in (calibration, evaluation))

    def w8a8(source: Path, made: Path, tokens: torch.Tensor, **choice: Any) -> Iterator[object]:
        """As the flow does it: integers first, then the format whose activations are rounded when it is measured."""
        packed = made.with_name(f"{made.name}-packed")
        yield from quantize_folder(source, packed, tokens, **choice)
        yield from convert_folder(packed, made, "int-quantized")

    engines: dict[str, Callable[..., Iterator[object]]] = {
        "w8a8": w8a8,
        "cast": lambda source, made, _, name: cast_folder(source, made, CASTS[name]),
        "prune": prune_folder,
        "slim": slim_folder,
        "quantize": quantize_folder,
        "prune by layer": prune_by_sensitivity,
        "quantize by layer": quantize_to_budget,
    }
    kind, arguments = ROWS[method]
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in engines[kind](original, destination, tokens, **arguments):
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Decode times are another benchmark's: the least that the scorer takes.
    candidate, baseline = score_pair(destination, original, held_out, prompt=held_out[0, :8], new_tokens=2, repeats=1)
    shutil.rmtree(destination)
    return Row(
        method,
        round(candidate.bytes / baseline.bytes, 4),
        round(candidate.perplexity / baseline.perplexity, 4),
        round(candidate.agreement, 4),
        round(candidate.kl, 5),
        round(wall, 1),
        round(cpu, 1),
    )


if __name__ == "__main__":
    main()
