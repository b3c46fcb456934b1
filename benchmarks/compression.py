"""Ours and the peers side by side: ``python -m benchmarks.compression``.

Every row compresses the same folder with the same calibration tokens, with Slimline and with each peer that has the
method, the peer in its own engine environment (``tasks/adapters/engines.py``; built on first use, minutes and
gigabytes). Every run is a child process of its own.

Wall and CPU seconds are of the work: reading the model, compressing, writing. Start of Python and imports are left out
for everyone, and stand in the JSON lines as ``whole_*``; ours includes compiling its kernels. Peak memory is of the
whole process. Perplexity is of the folder on disk, reloaded by ``load_for_compute`` for everyone, on held-out text; a
folder in the GPTQ format is first written again as packed codes, without rounding. Nothing here is averaged: wall time
depends on what else the machine does, CPU time less so.

``--quick`` takes the seeded two-block model and random tokens, and only peers whose environment is there: it shows that
the benchmark works, and its figures mean nothing else.
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

import numpy as np
from numpy.typing import NDArray

from benchmarks.compression_runs import Bench, Row, own, peer, reload
from benchmarks.compression_stages import QUICK_BLOCKS, QUICK_TOKENS, model_folder
from tasks.adapters.engine_kinds import ENGINES
from tasks.adapters.engine_runs import EngineRun
from tasks.adapters.engines import build_environment, find_environment
from tasks.errors import SlimlineError
from tasks.recipes import DataChoice
from tasks.settings import settings

OURS = "slimline"
GROUP = 64  # 128 does not divide the default model's width of 576
RATIOS = ("wall_s", "cpu_s", "peak_bytes", "disk_bytes", "perplexity")


def _prune(method: str, pattern: str = "unstructured") -> dict[str, Any]:
    return {"method": method, "sparsity": 0.5, "pattern": pattern, "damping": 0.01}


def _gptq(bits: int) -> dict[str, Any]:
    return {"method": "gptq", "bits": bits, "group_size": GROUP, "damping": 0.01}


ROWS = {
    "sparsegpt-50": Row(_prune("sparsegpt"), None, ("llm-compressor",)),
    "wanda-50": Row(_prune("wanda"), None, ("llm-compressor",)),
    "sparsegpt-2:4": Row(_prune("sparsegpt", "2:4"), None, ("llm-compressor",)),
    "gptq-4": Row(None, _gptq(4), ("llm-compressor", "optimum")),
    "sparsegpt-50+gptq-4": Row(_prune("sparsegpt"), _gptq(4), ("llm-compressor",)),
    "gptq-8": Row(None, _gptq(8), ("optimum",)),
    "gptq-3": Row(None, _gptq(3), ("optimum",)),
    "gptq-2": Row(None, _gptq(2), ("optimum",)),
}
QUICK_ROWS = ("sparsegpt-50", "gptq-4")


@dataclass(frozen=True)
class Figures:
    """One run. Seconds of work and of the whole process; bytes; perplexity and zeros of the reloaded folder; why
    there is none where a peer failed.
    """

    row: str
    engine: str
    tokens: int
    wall_s: float
    cpu_s: float
    whole_wall_s: float
    whole_cpu_s: float
    peak_bytes: int
    disk_bytes: int
    perplexity: float
    zeros: float
    versions: dict[str, str]
    error: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress one model with Slimline and with its peers.")
    parser.add_argument("--model", help="a Hugging Face folder; the default model when left out")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--blocks", type=int, default=DataChoice().calibration_blocks, help="calibration blocks")
    parser.add_argument("--evaluation-blocks", type=int, default=DataChoice().evaluation_blocks, help="held-out blocks")
    parser.add_argument("--threads", type=int, default=settings().threads, help="torch threads of every run")
    parser.add_argument("--batch-blocks", type=int, default=8, help="blocks that a peer passes through at once")
    parser.add_argument("--peers", choices=("all", "built", "none"), help="all builds what is missing")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="the seeded two-block model, under a minute")
    options = parser.parse_args()
    _head(options)
    for row, figures in measure(options):
        _show(row, figures, options.json)


def measure(options: argparse.Namespace) -> Iterator[tuple[str, list[Figures]]]:
    """Run the chosen rows; for each, ours first and then every peer that can be had."""
    peers = options.peers or ("built" if options.quick else "all")
    with tempfile.TemporaryDirectory(prefix="slimline-benchmark-") as name:
        work = Path(name)
        model = model_folder(options.model, options.quick, work).absolute()
        calibration, evaluation = _tokens(model, options)
        bench = Bench(model, calibration, evaluation, work, options.threads, options.batch_blocks)
        yield "dense", [_dense(bench)]
        for key in options.rows or (QUICK_ROWS if options.quick else ROWS):
            engines = [OURS, *(peer for peer in ROWS[key].peers if _ready(peer, peers))]
            yield key, _row(bench, key, engines)


def _ready(name: str, peers: str) -> bool:
    engine, home = ENGINES[name], settings().engines
    if find_environment(engine, home) is None and peers == "all":
        print(f"building the environment of {name} …", file=sys.stderr, flush=True)
        build_environment(engine, home)
    return peers != "none" and find_environment(engine, home) is not None


def _tokens(model: Path, options: argparse.Namespace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Calibration and held-out blocks, int64 (blocks, block_tokens), as the flow cuts them."""
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    if options.quick:
        made = np.random.default_rng(0).integers(0, vocabulary, (2, QUICK_BLOCKS, QUICK_TOKENS))
        return made[0], made[1]
    from tasks.adapters.texts import read_text
    from tasks.adapters.tokens import cut_blocks

    data = DataChoice(calibration_blocks=options.blocks, evaluation_blocks=options.evaluation_blocks)
    splits = cut_blocks(
        read_text(data.source, settings().downloads).documents,
        model / "tokenizer.json",
        vocabulary=vocabulary,
        block_tokens=data.block_tokens,
        calibration=data.calibration_blocks,
        training=1,
        evaluation=data.evaluation_blocks,
        seed=data.seed,
    )
    return splits.calibration.astype(np.int64), splits.evaluation.astype(np.int64)


def _dense(bench: Bench) -> Figures:
    (measured,) = reload(bench, [bench.model])
    return Figures("dense", "-", 0, 0, 0, 0, 0, 0, versions={}, **measured)


def _row(bench: Bench, key: str, engines: list[str]) -> list[Figures]:
    runs: list[tuple[str, EngineRun | SlimlineError]] = []
    folders = {}
    with tempfile.TemporaryDirectory(prefix="row-", dir=bench.work) as name:
        for engine in engines:
            print(f"{key}: {engine} …", file=sys.stderr, flush=True)
            folder = Path(name) / engine
            try:
                run = own(bench, ROWS[key], folder) if engine == OURS else peer(bench, engine, ROWS[key], folder)
                folders[engine] = folder
                runs.append((engine, run))
            except SlimlineError as error:
                if engine == OURS:
                    raise
                runs.append((engine, error))
        reloaded = dict(zip(folders, reload(bench, list(folders.values())), strict=True))
    return [_figures(bench, key, engine, run, reloaded.get(engine)) for engine, run in runs]


def _figures(
    bench: Bench, key: str, engine: str, run: EngineRun | SlimlineError, reloaded: dict[str, Any] | None
) -> Figures:
    if isinstance(run, SlimlineError) or reloaded is None:
        nan = float("nan")
        return Figures(key, engine, bench.calibration.size, nan, nan, nan, nan, 0, 0, nan, nan, {}, error=str(run))
    return Figures(
        row=key,
        engine=engine,
        tokens=bench.calibration.size,
        wall_s=run.work_wall_s,
        cpu_s=run.work_cpu_s,
        whole_wall_s=run.ran.wall_s,
        whole_cpu_s=run.ran.cpu_s,
        peak_bytes=run.ran.peak_bytes,
        versions=dict(run.versions),
        **reloaded,
    )


def _head(options: argparse.Namespace) -> None:
    if not options.json:
        print("seconds without imports; ratios are ours ÷ peer")
        names = f"{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'disk MB':>9}{'ppl':>10}{'zeros':>8}"
        print(f"{'row':21}{'engine':16}{names}", flush=True)


def _show(row: str, figures: list[Figures], as_json: bool) -> None:
    ours = figures[0]
    for each in figures:
        comparable = each is not ours and not each.error
        ratios = {name: getattr(ours, name) / getattr(each, name) for name in RATIOS} if comparable else {}
        if as_json:
            print(json.dumps({**asdict(each), "ours_to_peer": ratios}), flush=True)
            continue
        values = f"{each.wall_s:9.1f}{each.cpu_s:9.1f}{each.peak_bytes / 1e6:9,.0f}{each.disk_bytes / 1e6:9,.1f}"
        print(f"{row:21}{each.engine:16}{values}{each.perplexity:10.3f}{each.zeros:8.1%}")
        if ratios:
            widths = (9, 9, 9, 9, 10)
            shown = "".join(f"{ratio:{width}.2f}" for ratio, width in zip(ratios.values(), widths, strict=True))
            print(f"{'':21}{'  ours ÷ peer':16}{shown}")
        if each.error:
            print("  " + each.error.replace("\n", "\n  "))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
