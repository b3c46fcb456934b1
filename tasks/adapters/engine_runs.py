"""Run an engine on a model folder: folder and token blocks in, folder out (see ``engines.py``).

What an engine writes is not taken as it is. Weights are; of config.json only the quantization and the type of the
values; tokenizer, generation and licence are the source's own files; nothing else is kept. Then every file is searched
for the calibration text.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.children import Ran, last_lines, run_child, tail
from tasks.adapters.engine_kinds import Engine, check_engine_recipe, progress_in
from tasks.adapters.engine_output import adopt
from tasks.adapters.engines import Environment
from tasks.errors import SlimlineError


@dataclass(frozen=True)
class EngineRun:
    """What an engine did.

    Attributes:
        ran: the whole process: start of Python, imports, work, save.
        work_wall_s: seconds without start and imports.
        work_cpu_s: the same of processor time.
        versions: of the packages that did it.
    """

    ran: Ran
    work_wall_s: float
    work_cpu_s: float
    versions: Mapping[str, str]


def run_engine(
    environment: Environment,
    source: Path,
    destination: Path,
    tokens: NDArray[np.int64],
    *,
    prune: Mapping[str, Any] | None = None,
    quantize: Mapping[str, Any] | None = None,
    batch_blocks: int = 8,
    threads: int = 1,
    seed: int = 0,
    limit_s: float = 6 * 3600,
    tick: Callable[[int, int], None] | None = None,
) -> EngineRun:
    """Compress ``source`` into ``destination`` with an engine. A run that fails leaves the destination as it was.

    Args:
        environment: of the engine, complete.
        source: a dense Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: (blocks, block_tokens), the calibration text.
        prune: fields of a ``PruneRecipe``, or none.
        quantize: fields of a ``QuantizeRecipe``, or none. llm-compressor 0.14 does not keep every zero of a pruning
            before it in the same run: some blocks of a 2:4 pattern come out with three weights.
        batch_blocks: token blocks that the engine passes through the model at once.
        threads: of torch.
        seed: of everything random.
        limit_s: seconds that it may take.
        tick: told about every second how many of how many blocks are done, once the engine says so.

    Raises:
        RefusedRecipe: the engine does not have the method or bit width.
        SlimlineError: the engine failed (with its last lines), wrote no whole folder, or wrote calibration text.
    """
    engine = environment.engine
    check_engine_recipe(engine, prune=prune, quantize=quantize)
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    destination.parent.mkdir(parents=True, exist_ok=True)
    recipe = {"prune": prune and dict(prune), "quantize": quantize and dict(quantize), "batch_blocks": batch_blocks}
    # Beside the destination, so that gigabytes are renamed and not copied. It also holds the calibration tokens.
    with tempfile.TemporaryDirectory(prefix=".engine-", dir=destination.parent.absolute()) as name:
        scratch = Path(name)
        job = {
            "source": str(source.absolute()),
            "destination": str(scratch / "raw"),
            "tokens": str(scratch / "tokens.npy"),
            "recipe": recipe,
            "threads": threads,
            "seed": seed,
            "report": str(scratch / "report.json"),
        }
        np.save(scratch / "tokens.npy", tokens.astype(np.int64), allow_pickle=False)
        (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command: list[str | Path] = [environment.python, "-I", engine.script.absolute(), scratch / "job.json"]
        log = scratch / "log"
        what = f"the engine {engine.name}"
        variables = environment.variables | {"OMP_NUM_THREADS": str(threads)}
        ran = run_child(
            command,
            what=what,
            log=log,
            cwd=scratch,
            variables=variables,
            limit_s=limit_s,
            tick=lambda log: _tell(engine, log, tick),
        )
        said = _report(engine, scratch / "report.json", log)
        clean = scratch / "clean"
        clean.mkdir()
        adopt(scratch / "raw", source, clean, tokens)
        _publish(clean, destination)
    return EngineRun(ran, said["work_wall_s"], said["work_cpu_s"], said["versions"])


def _tell(engine: Engine, log: Path, tick: Callable[[int, int], None] | None) -> None:
    done = progress_in(engine, tail(log))
    if tick is not None and done is not None:
        tick(*done)


def _report(engine: Engine, path: Path, log: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlimlineError(
            f"the engine {engine.name} ended without its report",
            observed=f"{error}; it said last: {last_lines(log)}",
            limit="a JSON report beside the model",
            remedy="read its last lines",
        ) from error
    return said


def _publish(clean: Path, destination: Path) -> None:
    """Move a finished folder to where it was asked for; an empty folder that stands there may be held open by name."""
    if not destination.exists():
        clean.rename(destination)
        return
    # config.json makes it a model folder, so it comes last.
    for path in sorted(clean.iterdir(), key=lambda path: path.name == "config.json"):
        shutil.move(path, destination / path.name)
