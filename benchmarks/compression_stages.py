"""Time the compression stages of the default run: ``python -m benchmarks.compression_stages``.

Prune, quantize and distill run after one another on one model, each in a child process of its own, so that peak memory
is the stage's. ``--quick`` takes the seeded two-block model and random tokens: it shows that the benchmark works, and
its figures mean nothing else. Wall time depends on what else the machine does; CPU time less so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import in_child
from tasks.recipes import DataChoice, Recipe

QUICK_BLOCKS, QUICK_TOKENS = 4, 64


@dataclass(frozen=True)
class Row:
    """One stage: tokens that it saw, wall and CPU seconds of its process's work, and peak resident memory in bytes."""

    stage: str
    tokens: int
    wall_s: float
    cpu_s: float
    tokens_per_s: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Time prune, quantize and distill of the default recipe.")
    parser.add_argument("--model", help="a Hugging Face folder; the default model when left out")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; torch decides when 0")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, in seconds")
    options = parser.parse_args()
    rows = measure(options.model, quick=options.quick, threads=options.threads)
    if options.json:
        for row in rows:
            print(json.dumps(asdict(row)), flush=True)
        return
    print(f"{'stage':10}{'tokens':>9}{'wall s':>9}{'CPU s':>9}{'tokens/s':>10}{'peak MB':>9}", flush=True)
    for row in rows:
        figures = (
            f"{row.tokens:9,}{row.wall_s:9.1f}{row.cpu_s:9.1f}{row.tokens_per_s:10,.0f}{row.peak_bytes / 1e6:9,.0f}"
        )
        print(f"{row.stage:10}{figures}", flush=True)


def measure(model: str | None, *, quick: bool, threads: int = 0) -> Iterator[Row]:
    """Run the stages of the default recipe in their order, each on what the one before it made; a row as each ends."""
    recipe, data = Recipe(), DataChoice()
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        original = model_folder(model, quick, work)
        tokens = token_files(original, data, quick, work)
        source = original
        for stage in recipe.order:
            print(f"{stage} …", file=sys.stderr, flush=True)
            job = (stage, recipe.model_dump(), source, original, work / stage, tokens[stage == "distill"], threads)
            yield in_child(_stage, *job)
            source = work / stage


def model_folder(model: str | None, quick: bool, work: Path) -> Path:
    if model is not None:
        return Path(model)
    from tasks.adapters.sources import import_model
    from tasks.adapters.store import Store
    from tasks.recipes import ModelChoice
    from tasks.settings import settings

    where = settings()
    store = Store(work / "store") if quick else Store(where.store)
    imported = import_model("tiny" if quick else ModelChoice().source, store, where.downloads)
    return store.open(imported.stored.uri, imported.stored.digest)


def token_files(model: Path, data: DataChoice, quick: bool, work: Path) -> tuple[Path, Path, Path]:
    """Files of calibration, training and evaluation tokens, int64 (blocks, block_tokens)."""
    import numpy as np

    config = json.loads((model / "config.json").read_text())
    files = tuple(work / f"{split}.npy" for split in ("calibration", "training", "evaluation"))
    if quick:
        made = np.random.default_rng(0).integers(0, config["vocab_size"], (3, QUICK_BLOCKS, QUICK_TOKENS))
        splits = tuple(made)
    else:
        from tasks.adapters.texts import read_text
        from tasks.adapters.tokens import cut_blocks
        from tasks.settings import settings

        cut = cut_blocks(
            read_text(data.source, settings().downloads).documents,
            model / "tokenizer.json",
            vocabulary=config["vocab_size"],
            block_tokens=data.block_tokens,
            calibration=data.calibration_blocks,
            training=data.training_blocks,
            evaluation=data.evaluation_blocks,
            seed=data.seed,
        )
        splits = cut.calibration, cut.training, cut.evaluation
    for file, ids in zip(files, splits, strict=True):
        np.save(file, ids.astype(np.int64), allow_pickle=False)
    return files[0], files[1], files[2]


def _stage(
    stage: str, recipe: dict[str, Any], source: Path, original: Path, destination: Path, ids: Path, threads: int
) -> Row:
    """Run one stage in this process, which does nothing else, and report on the process."""
    import numpy as np
    import torch

    # Imported before the clock starts: a flow's worker imports once, and the first stage would carry it for all.
    import tasks.compression.distillation
    import tasks.compression.layerwise  # noqa: F401

    if threads:
        torch.set_num_threads(threads)
    tokens = torch.from_numpy(np.load(ids, allow_pickle=False))
    chosen = Recipe.model_validate(recipe)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in _work(stage, chosen, source, original, destination, tokens):
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seen = tokens.numel() * (chosen.distill.epochs if stage == "distill" else 1)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, kibibytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Row(stage, seen, round(wall, 2), round(cpu, 2), round(seen / wall, 1), peak)


def _work(stage: str, recipe: Recipe, source: Path, original: Path, destination: Path, tokens: Any) -> Iterator[object]:
    """The stage's own iterator, with the recipe's own settings."""
    from tasks.compression.distillation import distill_folder
    from tasks.compression.layerwise import prune_folder, quantize_folder

    if stage == "prune":
        chosen = recipe.prune.model_dump(exclude={"heads", "channels", "blocks", "allocation", "engine"})
        keep = ("prune", "quantize") in itertools.pairwise(recipe.order)  # as the flow does
        return prune_folder(source, destination, tokens, **chosen, seed=recipe.seed, keep_statistics=keep)
    if stage == "quantize":
        return quantize_folder(
            source, destination, tokens, **recipe.quantize.model_dump(exclude={"mean_bits", "format", "engine"})
        )
    return distill_folder(source, original, destination, tokens, **recipe.distill.model_dump(), seed=recipe.seed)


if __name__ == "__main__":
    main()
