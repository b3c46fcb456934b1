"""A cast rounds every value to the type's nearest, and keeps what the type cannot hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.compression.casting import CASTS, cast_folder
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.folder_facts import describe
from tasks.compression.loading import load_for_compute
from tasks.errors import RefusedRecipe
from tests.compression.small import LINEARS, blocks, prune, quantize, write_llama


@pytest.mark.parametrize("name", CASTS)
def test_every_tensor_is_the_nearest_value_and_zeros_stay(llama: Path, tmp_path: Path, name: str) -> None:
    source = prune(llama, tmp_path / "pruned")
    reports = list(cast_folder(source, tmp_path / "cast", CASTS[name]))
    before, after = Checkpoint(source), Checkpoint(tmp_path / "cast")
    assert set(after.names) == set(before.names)
    for tensor in before.names:
        assert torch.equal(after.tensor(tensor), before.tensor(tensor).to(CASTS[name])), tensor
    assert [report.layer for report in reports] == list(LINEARS) or {report.layer for report in reports} == set(LINEARS)
    assert all(0 < report.error < 1e-4 and report.fallback is None and report.bits == 16 for report in reports)
    facts = describe(tmp_path / "cast")
    assert (facts.dtype, facts.bits) == (name, 16)
    assert facts.sparsity == describe(source).sparsity


def test_a_value_beyond_float16_stays_float32_and_is_reported(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors[f"{LINEARS[0]}.weight"][3, 5] = 1e5
    tensors["model.norm.weight"][2] = -7e4
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    reports = {report.layer: report for report in cast_folder(source, tmp_path / "cast", torch.float16)}
    wide = {name: report.fallback for name, report in reports.items() if report.fallback}
    assert set(wide) == {LINEARS[0], "model.norm.weight"} and "100000" in str(wide[LINEARS[0]])
    # Loaded in the type that config.json names, nothing overflows.
    assert json.loads((tmp_path / "cast/config.json").read_text())["dtype"] == "float32"
    model = load_for_compute(tmp_path / "cast")
    assert float(model.get_parameter(f"{LINEARS[0]}.weight")[3, 5]) == 1e5
    with torch.inference_mode():
        assert bool(torch.isfinite(model(input_ids=blocks(1)).logits).all())
    assert not any(report.fallback for report in cast_folder(source, tmp_path / "bf16", torch.bfloat16))


def test_a_quantized_folder_is_not_cast(llama: Path, tmp_path: Path) -> None:
    packed = quantize(llama, tmp_path / "packed")
    with pytest.raises(RefusedRecipe, match="integers are smaller already"):
        cast_folder(packed, tmp_path / "cast", torch.float16)
    assert not (tmp_path / "cast").exists()
