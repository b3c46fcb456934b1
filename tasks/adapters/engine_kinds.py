"""The engines that can be chosen, what each of them has, and the refusal of what it has not.

An engine is another compression library, run in an environment and a process of its own (``engines.py``,
``engine_runs.py``). What stands here was tried with the versions of its constraints file; what was not tried is not
offered.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import RefusedModel, RefusedRecipe

SCRIPTS = Path(__file__).parent / "engine_scripts"
OWN = "slimline"

# An engine works on local files alone and tells nobody; torch's idle threads must not spin against other processes.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
}
_LLAMAS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")


@dataclass(frozen=True)
class Grid:
    """What a quantization method can write: bits a weight, and columns that share a scale (0: the whole row)."""

    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    """A compression library that runs in an environment of its own.

    Attributes:
        name: as people choose it.
        packages: what pip is asked to install.
        constraints: file with one ``name==version`` a line, for those packages and everything they need.
        script: file that the environment's Python runs.
        check: Python that must run in a new environment before it counts as complete.
        prunes: pruning methods that it has; the n:m patterns go with all of them.
        quantizes: quantization methods that it has.
        keeps_zeros: quantization methods that leave the zeros of an earlier pruning alone: those that only round.
        architectures: those that it was tried with, as in config.json.
        pythons: versions of Python that its packages exist for, none where all will do.
        tools: programs that must be on the path when the environment is built.
        gigabytes: of the environment on disk, with a torch for the processor.
        minutes: to build it, on two cores and with packages near.
        progress: of its log, a pattern with two groups: how many of how many blocks are done.
        variables: environment variables of its process; ``{folder}`` stands for the environment's folder.
    """

    name: str
    packages: tuple[str, ...]
    constraints: Path
    script: Path
    check: str
    prunes: tuple[str, ...] = ()
    quantizes: Mapping[str, Grid] = field(default_factory=dict)
    keeps_zeros: tuple[str, ...] = ()
    architectures: tuple[str, ...] = _LLAMAS
    pythons: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    gigabytes: float = 1.3
    minutes: int = 2
    progress: str = r"(?!)()()"
    variables: Mapping[str, str] = field(default_factory=lambda: dict(_QUIET))


_GPTQ = Grid((8, 4, 3, 2), (32, 64, 128))
# Not magnitude: llm-compressor 0.14's MagnitudePruningModifier does nothing in ``oneshot`` and says nothing.
_LLM_COMPRESSOR = Engine(
    name="llm-compressor",
    packages=("llmcompressor", "torch"),
    constraints=SCRIPTS / "llm-compressor.txt",
    script=SCRIPTS / "llm_compressor.py",
    check="import llmcompressor, compressed_tensors",
    prunes=("sparsegpt", "wanda"),
    quantizes={
        "gptq": _GPTQ,
        "awq": Grid((4,), (32, 64, 128)),
        "smoothquant": Grid((8,), (0,)),
        "fp8": Grid((8,), (0,)),
    },
    # Measured on release 0.14: after 2:4 pruning its GPTQ turns 1 to 9 % of a layer's zeros into weights again.
    keeps_zeros=("awq", "fp8"),
    progress=r"\((\d+)/(\d+)\): ",
)
# GPTQModel 7.6 sizes its worker pool by the cores and fails on two: "pool requests 2 workers but parent has 1".
_OPTIMUM = Engine(
    name="optimum",
    packages=("optimum", "gptqmodel", "accelerate", "datasets", "torch"),
    constraints=SCRIPTS / "optimum.txt",
    script=SCRIPTS / "optimum_gptq.py",
    # Its packing kernel is compiled now and kept in the environment: a compiler that is killed later leaves a lock on
    # which every later run waits for ever.
    check="import optimum.gptq; from gptqmodel.utils.cpp import load_pack_block_extension as load; load()",
    quantizes={"gptq": _GPTQ},
    tools=("g++",),
    minutes=3,
    progress=r"Quantizing model[^|]*\|[^|]*\| (\d+)/(\d+)",
    variables={**_QUIET, "GPTQMODEL_CPU_WORKERS": "2", "GPTQMODEL_TORCH_EXTENSIONS_DIR": "{folder}/extensions"},
)
# Its last release, of March 2024, has wheels up to Python 3.11, and imports with transformers 4 and numpy 1 only.
_AUTO_GPTQ = Engine(
    name="auto-gptq",
    packages=("auto-gptq", "torch"),
    constraints=SCRIPTS / "auto-gptq.txt",
    script=SCRIPTS / "auto_gptq_cpu.py",
    check="import auto_gptq.modeling.auto",
    quantizes={"gptq": _GPTQ},
    architectures=("LlamaForCausalLM",),
    pythons=("3.11",),
    progress=r"Start quantizing layer (\d+)/(\d+)",
)
ENGINES = {engine.name: engine for engine in (_LLM_COMPRESSOR, _OPTIMUM, _AUTO_GPTQ)}
# It measures and compresses nothing, so no recipe can choose it (``lm_eval_runs.py``).
LM_EVAL = Engine(
    name="lm-eval",
    packages=("lm-eval", "torch", "transformers", "compressed-tensors", "accelerate"),
    constraints=SCRIPTS / "lm-eval.txt",
    script=SCRIPTS / "lm_eval_tasks.py",
    check="import lm_eval.models.huggingface, lm_eval.tasks, compressed_tensors",
    gigabytes=1.8,
    minutes=3,
    progress=r"Running loglikelihood requests[^|]*\|[^|]*\| (\d+)/(\d+)",
    variables={**_QUIET, "HF_DATASETS_OFFLINE": "1"},
)
EVALUATORS = {LM_EVAL.name: LM_EVAL}


def check_engine_recipe(
    engine: Engine, *, prune: Mapping[str, Any] | None = None, quantize: Mapping[str, Any] | None = None
) -> None:
    """Refuse what ``engine`` cannot do, before anything is built or started.

    Args:
        prune: fields of a ``PruneRecipe``, or none.
        quantize: fields of a ``QuantizeRecipe``, or none.

    Raises:
        RefusedRecipe: no stage at all, or a method, bit width, group size or kind of zero points that it does not have.
    """
    if prune is None and quantize is None:
        raise _refused(engine, "stages", "none", "prune, quantize or both")
    if prune is not None and prune["method"] not in engine.prunes:
        raise _refused(engine, "pruning method", prune["method"], ", ".join(engine.prunes) or "no pruning")
    if quantize is None:
        return
    method = quantize["method"]
    grid = engine.quantizes.get(method)
    if grid is None:
        raise _refused(engine, "quantization", method, ", ".join(engine.quantizes) or "no quantization")
    for what, asked, allowed in (
        ("bits", quantize["bits"], grid.bits),
        ("group size", quantize["group_size"], grid.group_sizes),
        ("symmetric", quantize.get("symmetric", True), (True,)),
    ):
        if asked not in allowed:
            raise _refused(engine, f"{method} with this {what}", asked, ", ".join(map(str, allowed)))


def check_engine_place(engine: Engine) -> None:
    """Refuse an engine whose environment cannot be built on this machine.

    Raises:
        RefusedRecipe: there are no packages for this Python, or a tool is missing.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    if engine.pythons and python not in engine.pythons:
        raise _refused(engine, "version of Python", python, ", ".join(engine.pythons))
    missing = [tool for tool in engine.tools if shutil.which(tool) is None]
    if missing:
        raise RefusedRecipe(
            f"the engine {engine.name} compiles a kernel when its environment is built",
            observed=f"no {', '.join(missing)} on the path",
            limit=", ".join(engine.tools),
            remedy="install it (Debian: g++), or choose another engine",
        )


def check_engine_model(engine: Engine, architecture: str) -> None:
    """Refuse an architecture that this engine was not tried with: some pass over its layers and say nothing.

    Raises:
        RefusedModel: names those that will do.
    """
    if architecture not in engine.architectures:
        raise RefusedModel(
            f"the engine {engine.name} is not offered for this architecture",
            observed=architecture,
            limit=", ".join(engine.architectures),
            remedy="choose Slimline's own engine for it",
        )


def progress_in(engine: Engine, log: str) -> tuple[int, int] | None:
    """How many of how many blocks are done, as the end of its log says; none where it says nothing."""
    found = re.findall(engine.progress, log)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def _refused(engine: Engine, what: str, observed: object, limit: str) -> RefusedRecipe:
    return RefusedRecipe(
        f"the engine {engine.name} cannot do this {what}",
        observed=observed,
        limit=limit,
        remedy="choose one of these, or Slimline's own engine",
    )
