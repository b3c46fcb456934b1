"""The real engines on a two-block model, where their environments have been built; nothing is built for a test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.adapters.children import run_child
from tasks.adapters.engine_runs import run_engine
from tasks.adapters.engines import ENGINES, Environment, find_environment
from tasks.compression.checkpoint import describe
from tasks.compression.conversion import convert_folder
from tasks.compression.gptq_format import repack_gptq
from tasks.compression.layerwise import quantize_folder
from tasks.compression.layouts import Layout
from tasks.compression.loading import load_for_compute
from tasks.settings import settings
from tests.compression.small import LINEARS, VOCABULARY, write_llama

TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (8, 32))
PRUNE = {"method": "sparsegpt", "sparsity": 0.5, "pattern": "2:4", "damping": 0.01}
FOREIGN = Path(__file__).parents[2] / "benchmarks" / "foreign_logits.py"
# Bits, symmetric, layout, GPTQModel's kernel, largest difference of a logit as a share of the largest one.
OURS: tuple[tuple[int, bool, Layout, str, float], ...] = (
    (8, True, "gptq", "torch", 1e-5),
    (4, True, "gptq", "auto", 0.1),
    (4, True, "gptq_v2", "torch", 1e-5),
    (4, False, "gptq", "torch", 1e-5),
    (3, True, "gptq", "torch", 1e-5),
    (2, False, "gptq_v2", "torch", 1e-5),
)
GPTQ = {"method": "gptq", "bits": 4, "group_size": 32, "damping": 0.01}


def built(name: str) -> Environment:
    found = find_environment(ENGINES[name], settings().root / "engines")
    return found or pytest.skip(f"the environment of {name} is not built; benchmarks.compression builds it")


def worst(folder: Path, source: Path) -> float:
    """The largest distance of a linear weight from the original one, as a share of that layer's largest weight."""
    made, original = load_for_compute(folder), load_for_compute(source)
    pairs = [(made.get_parameter(f"{name}.weight"), original.get_parameter(f"{name}.weight")) for name in LINEARS]
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def test_llm_compressor_prunes_what_we_load(tmp_path: Path) -> None:
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    run_engine(built("llm-compressor"), source, made, TOKENS, prune=PRUNE)
    for name in LINEARS:
        weight = load_for_compute(made).get_parameter(f"{name}.weight")
        assert bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()), name
    assert describe(made).bits == 32


def test_llm_compressor_quantizes_near_the_original(tmp_path: Path) -> None:
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    run_engine(built("llm-compressor"), source, made, TOKENS, quantize=GPTQ | {"bits": 8})
    assert 0 < worst(made, source) < 0.1


@pytest.mark.parametrize("bits", [8, 3])  # one width of the compiled packing, and the one that is packed in Python
def test_optimum_writes_what_we_read(tmp_path: Path, bits: int) -> None:
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    run_engine(built("optimum"), source, made, TOKENS, quantize=GPTQ | {"bits": bits})
    repack_gptq(made, tmp_path / "packed")
    assert describe(tmp_path / "packed").bits == bits
    # Wrong zero points or a wrong order of bits would move weights by half the range.
    assert 0 < worst(tmp_path / "packed", source) < {8: 0.1, 3: 0.6}[bits]
    with torch.inference_mode():
        logits = load_for_compute(tmp_path / "packed")(input_ids=torch.from_numpy(TOKENS[:1])).logits
    assert bool(torch.isfinite(logits).all())


def test_gptqmodel_computes_what_we_compute_from_our_folders(tmp_path: Path) -> None:
    """Its kernels with float16 weights: the very same logits. The default one for 4 bits multiplies in bfloat16."""
    environment = built("optimum")
    source, tokens = write_llama(tmp_path / "source"), torch.from_numpy(TOKENS[:2])
    made = []
    for bits, symmetric, layout, kernel, limit in OURS:
        grid = {"method": "gptq", "bits": bits, "group_size": 32, "symmetric": symmetric}
        packed, folder = tmp_path / f"packed{len(made)}", tmp_path / f"made{len(made)}"
        list(quantize_folder(source, packed, torch.from_numpy(TOKENS), **grid))
        list(convert_folder(packed, folder, layout))
        made.append((folder, kernel, limit))
    job = {
        "tokens": str(tmp_path / "tokens.npy"),
        "folders": [str(folder) for folder, _, _ in made],
        "kernels": [kernel for _, kernel, _ in made],
        "logits": [f"{folder}.npy" for folder, _, _ in made],
    }
    np.save(tmp_path / "tokens.npy", tokens.numpy())
    (tmp_path / "job.json").write_text(json.dumps(job))
    run_child(
        [environment.python, "-I", FOREIGN, tmp_path / "job.json"],
        what="GPTQModel",
        log=tmp_path / "log",
        variables=environment.variables | {"TORCHDYNAMO_DISABLE": "1"},
        limit_s=600,
    )
    for folder, _, limit in made:
        assert "Linear" in Path(f"{folder}.npy.txt").read_text(), Path(f"{folder}.npy.txt").read_text()
        theirs = torch.from_numpy(np.load(f"{folder}.npy"))
        with torch.inference_mode():
            ours = load_for_compute(folder)(input_ids=tokens).logits
        assert float((ours - theirs).abs().max() / ours.abs().max()) <= limit, folder
