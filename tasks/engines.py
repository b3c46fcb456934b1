"""Compression by another engine: its environment, its run, and the same handle, checks and reports as ours.

What is ours never imports what is the engine's: it runs as a child process in an environment of its own, and only the
folder that it wrote is looked at (``adapters/engine_runs.py``, ``compression/foreign_layers.py``).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.adapters.engine_kinds import ENGINES, EVALUATORS, OWN, Engine
from tasks.adapters.engine_runs import EngineRun, run_engine
from tasks.adapters.engines import build_environment, environment_key, find_environment, read_constraints
from tasks.caching import StageKey, stage_key
from tasks.contracts import Compressed, DatasetRef, LayerReport, ModelRef, identity
from tasks.recipes import PruneRecipe, QuantizeRecipe
from tasks.retrying import network_task
from tasks.settings import settings
from tasks.sourcecode import code_digest
from tasks.workbench import Progress, followed, logger, open_model, open_tokens, use_threads, write_model

if TYPE_CHECKING:
    import torch

    from tasks.compression.resuming import Partial

_MOVES_SCALE = ("awq", "smoothquant")
_MODULES = ("tasks.engines", "tasks.compression.foreign_layers", "tasks.compression.gptq_format")
_CODE = ("tasks.adapters.engine_runs", "tasks.adapters.engine_output")


@dataclass
class EngineKey(StageKey):
    """The key of a stage that another engine may compute: environment, script, and what becomes of its output."""

    def more(self, inputs: dict[str, Any]) -> dict[str, Any]:
        name = inputs["recipe"].engine
        if name == OWN:
            return {}
        return {"engine": {**engine_identity(ENGINES[name]), "output": code_digest((*_MODULES, *_CODE))}}


def engine_identity(engine: Engine) -> dict[str, str]:
    """What an engine's result depends on beside the recipe."""
    return {
        "name": engine.name,
        "environment": environment_key(engine),
        "script": hashlib.sha256(engine.script.read_bytes()).hexdigest(),
    }


@network_task("engine-{name}")
def prepare_engine(name: str) -> str:
    """Build the environment of an engine where it is not there yet; returns its key.

    Never cached by Prefect: whether it is there is looked up on the disk, which costs nothing.

    Raises:
        EngineNotBuilt: pip could not install its packages.
    """
    engine, home = (ENGINES | EVALUATORS)[name], settings().engines
    if find_environment(engine, home) is None:
        packages = len(read_constraints(engine.constraints))
        plan = f"{packages} packages, about {engine.gigabytes:g} GB and {engine.minutes} minutes"
        logger().info("building the environment of %s below %s: %s", name, home, plan)
        progress = Progress(f"engine-{name}")
        progress.show(0.0, f"downloading {plan}")

        def tell(done: int) -> None:
            if done:
                progress.show(0.95 * done / packages, f"{done} of {packages} packages installed")

        build_environment(engine, home, tell)
        progress.show(1.0, "built, and run once")
    return environment_key(engine)


def compress_by_engine(
    model: ModelRef, data: DatasetRef, recipe: PruneRecipe | QuantizeRecipe, seed: int = 0
) -> Compressed:
    """Prune or quantize with the engine that the recipe names. Seconds and memory are those of its process.

    A run that is killed begins again: an engine keeps no finished parts.

    Raises:
        RefusedRecipe: the engine lacks what is asked for.
        SlimlineError: it failed, wrote no whole folder, or wrote calibration text.
    """
    use_threads()
    stage = "prune" if isinstance(recipe, PruneRecipe) else "quantize"
    source, tokens = open_model(model), open_tokens(data, "calibration")
    layers: list[LayerReport] = []
    runs: list[EngineRun] = []

    def make(folder: Path, partial: Partial) -> None:
        runs.append(_run(stage, source, folder, tokens, recipe, seed))
        layers.extend(_measured(stage, source, folder, tokens, recipe))

    engine = ENGINES[recipe.engine]
    made_from = {
        "model": model.digest,
        "data": data.digest,
        stage: identity(recipe),
        "seed": seed,
        "engine": engine_identity(engine),
    }
    name = f"{model.name}-{recipe.suffix if isinstance(recipe, QuantizeRecipe) else 'pruned'}"
    made, _ = write_model(made_from, make, stage=stage, key=stage_key(), name=name, licence=model.licence)
    run = runs[-1]
    return Compressed(
        stage=stage,
        model=made,
        layers=tuple(layers),
        tokens=tokens.numel(),
        seconds=run.ran.wall_s,
        peak_bytes=run.ran.peak_bytes,
        engine=engine.name,
        versions=dict(run.versions),
    )


def _run(
    stage: str, source: Path, folder: Path, tokens: torch.Tensor, recipe: PruneRecipe | QuantizeRecipe, seed: int
) -> EngineRun:
    """The engine's process, and its folder moved to where ours would be; GPTQ's format becomes packed codes."""
    from tasks.compression.gptq_format import repack_gptq
    from tasks.compression.gptq_layers import gptq_packing

    for left in folder.parent.glob(".engine-*"):  # of a process that was killed; it holds calibration tokens
        shutil.rmtree(left, ignore_errors=True)
    progress = Progress(stage)
    environment = build_environment(ENGINES[recipe.engine], settings().engines)
    with tempfile.TemporaryDirectory(prefix=".engine-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        run = run_engine(
            environment,
            source,
            made,
            tokens.numpy(),
            prune=recipe.model_dump() if isinstance(recipe, PruneRecipe) else None,
            quantize=recipe.model_dump() if isinstance(recipe, QuantizeRecipe) else None,
            threads=settings().threads,
            seed=seed,
            tick=lambda done, of: progress.show(done / of, f"{recipe.engine}: {done} of {of} blocks"),
        )
        if gptq_packing(_config(made)) is not None:
            repack_gptq(made, folder)
        else:
            # config.json makes it a model folder, so it comes last.
            for path in sorted(made.iterdir(), key=lambda path: path.name == "config.json"):
                shutil.move(path, folder / path.name)
    progress.show(1.0, f"{recipe.engine} has finished")
    return run


def _config(folder: Path) -> dict[str, Any]:
    from tasks.compression.checkpoint import Checkpoint

    return Checkpoint(folder).config


def _measured(
    stage: str, source: Path, folder: Path, tokens: torch.Tensor, recipe: PruneRecipe | QuantizeRecipe
) -> Iterator[LayerReport]:
    from tasks.compression.checkpoint import check_supported, linear_count
    from tasks.compression.checks import check_zeros
    from tasks.compression.foreign_layers import measure_layers

    check_supported(folder)
    zeros = check_zeros(recipe.sparsity, recipe.pattern) if isinstance(recipe, PruneRecipe) else None
    found = measure_layers(
        source, folder, tokens, method=recipe.method, zeros=zeros, comparable=recipe.method not in _MOVES_SCALE
    )
    return followed(f"{stage}-check", found, linear_count(folder), "layers measured")
