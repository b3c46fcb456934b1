"""The real engines on a two-block model, where their environments have been built; nothing is built for a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import ENGINES
from tasks.adapters.engine_runs import run_engine
from tasks.adapters.engines import Environment, find_environment
from tasks.compression.conversion import convert_folder
from tasks.compression.folder_facts import describe
from tasks.compression.foreign_layers import measure_layers
from tasks.compression.gptq_format import repack_gptq
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.layouts import Layout
from tasks.compression.loading import load_for_compute
from tasks.settings import settings
from tests.compression.small import LINEARS, VOCABULARY, write_llama

TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (8, 32))
TENSOR = torch.from_numpy(TOKENS)
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
    found = find_environment(ENGINES[name], settings().engines)
    return found or pytest.skip(f"the environment of {name} is not built; `slimline engines --build {name}` builds it")


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


def test_which_methods_of_llm_compressor_keep_zeros(tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    list(prune_folder(write_llama(tmp_path / "source"), pruned, TENSOR, method="magnitude", sparsity=0, pattern="2:4"))
    kinds = ENGINES["llm-compressor"]
    for method, grid in kinds.quantizes.items():
        bits = 4 if 4 in grid.bits else grid.bits[-1]
        made, choice = tmp_path / method, {"method": method, "bits": bits, "group_size": grid.group_sizes[0]}
        run_engine(built("llm-compressor"), pruned, made, TOKENS, quantize=GPTQ | choice)
        reports = list(measure_layers(pruned, made, TENSOR, method=method, comparable=method in ("gptq", "fp8")))
        lost = [report for report in reports if report.fallback and "became weights again" in report.fallback]
        assert (not lost) == (method in kinds.keeps_zeros), method
        if method == "gptq":
            assert all(0 < (report.error or 0) < 0.1 for report in reports)


@pytest.mark.parametrize(
    ("method", "bits", "group", "distance"), [("awq", 4, 32, 0.7), ("smoothquant", 8, 0, 0.1), ("fp8", 8, 0, 0.3)]
)
def test_formats_that_only_llm_compressor_writes(
    tmp_path: Path, method: str, bits: int, group: int, distance: float
) -> None:
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    choice = GPTQ | {"method": method, "bits": bits, "group_size": group}
    run_engine(built("llm-compressor"), source, made, TOKENS, quantize=choice)
    assert describe(made).bits == bits and describe(made).parameters == describe(source).parameters
    model, tokens = load_for_compute(made), torch.from_numpy(TOKENS[:2])
    with torch.inference_mode():
        original, ours = load_for_compute(source)(input_ids=tokens).logits, model(input_ids=tokens).logits
        assert 0 < float((ours - original).norm() / original.norm()) < distance
        if method != "awq":  # transformers loads zero points only when it makes the weights dense
            plain = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)(input_ids=tokens).logits
            assert torch.equal(plain, ours), "the library's own forward rounds the same inputs the same way"


@pytest.mark.parametrize(("name", "bits"), [("optimum", 8), ("optimum", 3), ("auto-gptq", 8), ("auto-gptq", 3)])
def test_what_is_written_in_the_gptq_format_is_read(tmp_path: Path, name: str, bits: int) -> None:
    """8 bits and 3: one width of the compiled packing, and the one that is packed in Python."""
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    run_engine(built(name), source, made, TOKENS, quantize=GPTQ | {"bits": bits})
    repack_gptq(made, tmp_path / "packed")
    assert describe(tmp_path / "packed").bits == bits
    # Wrong zero points or a wrong order of bits would move weights by half the range.
    assert 0 < worst(tmp_path / "packed", source) < {8: 0.1, 3: 0.6}[bits]
    with torch.inference_mode():
        logits = load_for_compute(tmp_path / "packed")(input_ids=torch.from_numpy(TOKENS[:1])).logits
    assert bool(torch.isfinite(logits).all())


def test_auto_gptq_sees_the_models_own_rotation(tmp_path: Path) -> None:
    """transformers 4 does not know ``rope_parameters``; read wrongly, the weights are fitted to other activations."""
    source = write_llama(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 10000
    other = tmp_path / "other"
    shutil.copytree(source, other)
    config["rope_parameters"]["rope_theta"] = 10.0
    (other / "config.json").write_text(json.dumps(config))
    for folder in (source, other):
        run_engine(built("auto-gptq"), folder, tmp_path / f"made-{folder.name}", TOKENS, quantize=GPTQ)
        repack_gptq(tmp_path / f"made-{folder.name}", tmp_path / f"packed-{folder.name}")
    right, wrong = (
        sum(
            report.error or 0
            for report in measure_layers(other, tmp_path / f"packed-{name}", torch.from_numpy(TOKENS), method="gptq")
        )
        for name in ("other", "source")
    )
    assert right < wrong


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
