"""What others compute from the folders that Slimline writes: ``python -m benchmarks.round_trips``.

A model is quantized to several grids, each grid is written in the formats that hold it, and every folder is loaded
twice: by ``load_for_compute``, which the gate measures with, and by the library that the format is meant for, in a
process that imports nothing of Slimline. Printed are the largest difference of a logit as a share of the largest
logit, and the share of positions with the same most likely token. compressed-tensors folders and dense ones are loaded
by plain transformers; GPTQ folders by transformers with GPTQModel in the ``optimum`` engine environment, where that has
been built (``benchmarks.compression`` builds it). ``--quick`` takes the seeded two-block model and random tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compression_stages import model_folder, token_files
from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import ENGINES
from tasks.adapters.engines import Environment, find_environment
from tasks.recipes import DataChoice
from tasks.settings import settings

TRANSFORMERS, TORCH, AUTO = None, "torch", "auto"
# Both sides compute with the same float16 weights in float32, perhaps in another order.
EXACT = 1e-5
# transformers multiplies codes and scales in float32, ``load_for_compute`` in float16, as servers do.
FLOAT16 = 2e-3
# GPTQModel's default kernels for 4 bits multiply in bfloat16.
BFLOAT16 = 1e-1

GRIDS: dict[str, dict[str, Any]] = {
    "GPTQ 8 bit": {"bits": 8},
    "GPTQ 4 bit": {"bits": 4},
    "GPTQ 3 bit": {"bits": 3},
    "GPTQ 2 bit": {"bits": 2},
    "GPTQ 4 bit row": {"bits": 4, "group_size": 0},
    "GPTQ 4 bit asymmetric": {"bits": 4, "symmetric": False},
    "GPTQ 2 bit asymmetric": {"bits": 2, "symmetric": False},
    "W8A8": {"bits": 8, "group_size": 0},
    "float16": {},
    "bfloat16": {},
    "SparseGPT 2:4": {},
    "channels 25 %": {},
}
# Grid, layout, GPTQModel's kernel or none for plain transformers, tolerance.
ROWS: tuple[tuple[str, str, str | None, float], ...] = (
    ("GPTQ 8 bit", "pack-quantized", TRANSFORMERS, FLOAT16),
    ("GPTQ 4 bit", "pack-quantized", TRANSFORMERS, FLOAT16),
    ("GPTQ 3 bit", "pack-quantized", TRANSFORMERS, FLOAT16),
    ("GPTQ 2 bit", "pack-quantized", TRANSFORMERS, FLOAT16),
    ("GPTQ 4 bit row", "pack-quantized", TRANSFORMERS, FLOAT16),
    ("W8A8", "int-quantized", TRANSFORMERS, EXACT),
    ("float16", "dense", TRANSFORMERS, EXACT),
    ("bfloat16", "dense", TRANSFORMERS, EXACT),
    ("SparseGPT 2:4", "dense", TRANSFORMERS, EXACT),
    ("channels 25 %", "dense", TRANSFORMERS, EXACT),
    ("GPTQ 8 bit", "gptq", TORCH, EXACT),
    ("GPTQ 4 bit", "gptq", TORCH, EXACT),
    ("GPTQ 4 bit", "gptq", AUTO, BFLOAT16),
    ("GPTQ 3 bit", "gptq", TORCH, EXACT),
    ("GPTQ 2 bit", "gptq", TORCH, EXACT),
    ("GPTQ 4 bit row", "gptq", TORCH, EXACT),
    ("GPTQ 4 bit asymmetric", "gptq", TORCH, EXACT),
    ("GPTQ 2 bit asymmetric", "gptq", TORCH, EXACT),
    ("GPTQ 4 bit", "gptq_v2", TORCH, EXACT),
    ("GPTQ 2 bit asymmetric", "gptq_v2", TORCH, EXACT),
)


@dataclass(frozen=True)
class Row:
    """One folder, loaded twice. ``difference`` is the largest of a logit ÷ the largest logit; none when not loaded."""

    grid: str
    layout: str
    reader: str
    layers: str
    difference: float | None
    agreement: float | None
    tolerance: float
    verdict: str


def main() -> None:
    parser = argparse.ArgumentParser(description="Logits of our folders by foreign loaders, compared with ours.")
    parser.add_argument("--model", help="a Hugging Face folder; the default model when left out")
    parser.add_argument("--rows", help="comma-separated parts of 'grid layout'; all when left out")
    parser.add_argument("--blocks", type=int, default=4, help="calibration blocks of 256 tokens")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, in a minute")
    options = parser.parse_args()
    wanted = [part.strip().lower() for part in (options.rows or "").split(",")]
    rows = [row for row in ROWS if any(part in f"{row[0]} {row[1]}".lower() for part in wanted)]
    failed = False
    if not options.json:
        print(f"{'grid':23}{'layout':16}{'reader':20}{'difference':>11}{'agree':>7}{'limit':>8}  verdict", flush=True)
    for row in measure(rows, options.model, options.blocks, quick=options.quick):
        failed |= row.verdict == "failed"
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
            continue
        found = "          –      –" if row.difference is None else f"{row.difference:11.1e}{row.agreement:7.3f}"
        print(f"{row.grid:23}{row.layout:16}{row.reader:20}{found}{row.tolerance:8.0e}  {row.verdict}", flush=True)
    sys.exit(1 if failed else 0)


def measure(
    rows: list[tuple[str, str, str | None, float]], model: str | None, blocks: int, *, quick: bool
) -> Iterator[Row]:
    """Make the folders, then load them: first all rows of plain transformers, then all of GPTQModel."""
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        original = model_folder(model, quick, work)
        data = DataChoice(calibration_blocks=blocks, evaluation_blocks=2)
        calibration, _, evaluation = token_files(original, data, quick, work)
        folders = {row[:2]: _made(row[0], row[1], original, calibration, work) for row in rows}
        environment = find_environment(ENGINES["optimum"], settings().root / "engines")
        for foreign in (False, True):
            chosen = [row for row in rows if (row[2] is not None) == foreign]
            if chosen:
                yield from _compared(chosen, folders, evaluation, work, environment if foreign else None)


def _made(grid: str, layout: str, original: Path, calibration: Path, work: Path) -> Path:
    """The folder of a row; a grid is quantized once for all its layouts."""
    import numpy as np
    import torch

    from tasks.compression.casting import CASTS, cast_folder
    from tasks.compression.conversion import convert_folder
    from tasks.compression.layerwise import prune_folder, quantize_folder
    from tasks.compression.slimming import slim_folder

    source, tokens = work / grid, torch.from_numpy(np.load(calibration, allow_pickle=False))
    if not source.exists():
        print(f"{grid} …", file=sys.stderr, flush=True)
        if grid in CASTS:
            made: Iterator[object] = cast_folder(original, source, CASTS[grid])
        elif grid == "SparseGPT 2:4":
            made = prune_folder(original, source, tokens, method="sparsegpt", sparsity=0.5, pattern="2:4")
        elif grid == "channels 25 %":
            made = slim_folder(original, source, tokens, heads=0.0, channels=0.25, blocks=0.0)
        else:
            made = quantize_folder(original, source, tokens, **({"method": "gptq", "group_size": 64} | GRIDS[grid]))
        for _ in made:
            pass
    converted = work / f"{grid} {layout}"
    if layout in ("dense", "pack-quantized"):
        return source
    if not converted.exists():
        for _ in convert_folder(source, converted, layout):  # type: ignore[arg-type]
            pass
    return converted


def _compared(
    rows: list[tuple[str, str, str | None, float]],
    folders: dict[tuple[str, str], Path],
    evaluation: Path,
    work: Path,
    environment: Environment | None,
) -> Iterator[Row]:
    import numpy as np
    import torch

    from tasks.compression.loading import load_for_compute

    logits = [work / f"{'foreign' if environment else 'plain'}-{number}.npy" for number in range(len(rows))]
    if rows[0][2] is None or environment is not None:
        _run(rows, folders, evaluation, work, environment, logits)
    tokens = torch.from_numpy(np.load(evaluation, allow_pickle=False))
    for (grid, layout, kernel, tolerance), file in zip(rows, logits, strict=True):
        reader = f"GPTQModel, {kernel}" if kernel else "transformers"
        said = Path(f"{file}.txt").read_text(encoding="utf-8") if Path(f"{file}.txt").exists() else "not run"
        if not file.exists():
            verdict = "no environment" if said == "not run" else "failed"
            yield Row(grid, layout, reader, said, None, None, tolerance, verdict)
            continue
        theirs = torch.from_numpy(np.load(file, allow_pickle=False))
        model = load_for_compute(folders[grid, layout])
        with torch.inference_mode():
            ours = torch.cat([model(input_ids=row[None], use_cache=False).logits for row in tokens])
        difference = float((ours - theirs).abs().max() / ours.abs().max())
        agreement = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
        verdict = "within" if difference <= tolerance else "failed"
        yield Row(grid, layout, reader, said, difference, round(agreement, 4), tolerance, verdict)


def _run(
    rows: list[tuple[str, str, str | None, float]],
    folders: dict[tuple[str, str], Path],
    evaluation: Path,
    work: Path,
    environment: Environment | None,
    logits: list[Path],
) -> None:
    """One child process for all rows: the libraries are imported once."""
    job = {
        "tokens": str(evaluation),
        "folders": [str(folders[row[:2]]) for row in rows],
        "kernels": [row[2] for row in rows],
        "logits": [str(file) for file in logits],
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    python = sys.executable if environment is None else environment.python
    # Compiling GPTQModel's kernels takes longer than running them here, and changes nothing in what they compute.
    variables = {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("foreign_logits.py")
    run_child(
        [python, "-I", script, work / "job.json"],
        what="the foreign loader",
        log=work / "log",
        cwd=work,
        variables=(environment.variables if environment else {}) | variables,
        limit_s=3600,
    )


if __name__ == "__main__":
    main()
