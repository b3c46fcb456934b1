"""One run of ``benchmarks.compression``: Slimline or a peer, each in a child process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import ENGINES
from tasks.adapters.engine_runs import EngineRun, run_engine
from tasks.adapters.engines import build_environment
from tasks.compression.lean import VARIABLES
from tasks.settings import settings


@dataclass(frozen=True)
class Row:
    """A recipe, and the peers that have it."""

    prune: dict[str, Any] | None
    quantize: dict[str, Any] | None
    peers: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    model: Path
    calibration: NDArray[np.int64]
    evaluation: NDArray[np.int64]
    work: Path
    threads: int
    batch_blocks: int


def peer(bench: Bench, name: str, row: Row, folder: Path) -> EngineRun:
    """The peer called ``name`` makes ``folder`` by the row's recipe, in its own environment."""
    environment = build_environment(ENGINES[name], settings().engines)
    return run_engine(
        environment,
        bench.model,
        folder,
        bench.calibration,
        prune=row.prune,
        quantize=row.quantize,
        batch_blocks=bench.batch_blocks,
        threads=bench.threads,
    )


def own(bench: Bench, row: Row, folder: Path) -> EngineRun:
    """Slimline makes ``folder`` by the row's recipe."""
    recipe = {"prune": row.prune, "quantize": row.quantize}
    job = {"source": str(bench.model), "destination": str(folder), "recipe": recipe, "seed": 0}
    ran, said = _child(bench, job, bench.calibration)
    return EngineRun(ran, said["work_wall_s"], said["work_cpu_s"], said["versions"])


def reload(bench: Bench, folders: list[Path]) -> list[dict[str, Any]]:
    """Perplexity and bytes of folders on disk, in a process that saw nothing of how they were made."""
    _, said = _child(bench, {"folders": [str(folder) for folder in folders]}, bench.evaluation)
    measured: list[dict[str, Any]] = said["folders"]
    return measured


def _child(bench: Bench, job: dict[str, Any], tokens: NDArray[np.int64]) -> tuple[Any, dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=bench.work) as name:
        scratch = Path(name)
        np.save(scratch / "tokens.npy", tokens, allow_pickle=False)
        files = {"tokens": str(scratch / "tokens.npy"), "report": str(scratch / "report.json")}
        (scratch / "job.json").write_text(json.dumps({**job, **files, "threads": bench.threads}))
        ran = run_child(
            [sys.executable, "-m", "benchmarks.own_child", scratch / "job.json"],
            what="Slimline's run",
            log=scratch / "log",
            variables=child_variables(bench.threads),
        )
        return ran, json.loads((scratch / "report.json").read_text())


def child_variables(threads: int) -> dict[str, str]:
    """Environment of Slimline's own child: that of a stage's child process, and the threads of this run."""
    return {**VARIABLES, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(threads)}
