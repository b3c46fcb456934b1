"""8-bit weights and inputs, against the library's own forward pass, and what of other engines' folders is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize as encode
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.eight_bits import Kind
from tasks.compression.folder_facts import describe
from tasks.compression.foreign_layers import measure_layers
from tasks.compression.layerwise import quantize_folder
from tasks.compression.loading import load_for_compute
from tasks.compression.onnx_export import export_onnx
from tasks.compression.pruning import Pattern
from tasks.errors import RefusedModel
from tests.compression.small import LINEARS, blocks, prune, quantize, write_llama


def write(folder: Path, kind: Kind) -> Path:
    """What llm-compressor 0.14 writes for W8A8 and FP8."""
    write_llama(folder)
    tensors = load_file(folder / "model.safetensors")
    largest, stored = (127.5, torch.int8) if kind == "int" else (448.0, torch.float8_e4m3fn)
    plan = {"num_bits": 8, "type": kind, "symmetric": True}
    for name in LINEARS:
        weight = tensors[f"{name}.weight"]
        scale = weight.abs().amax(1, keepdim=True) / largest
        args = QuantizationArgs(**plan, strategy="channel")
        tensors[f"{name}.weight"] = encode(weight, scale, torch.zeros_like(scale), args, dtype=stored)
        tensors[f"{name}.weight_scale"] = scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    scheme = {
        "format": f"{kind}-quantized", "targets": ["Linear"], "weights": plan | {"strategy": "channel"},
        "input_activations": plan | {"strategy": "token", "dynamic": True},
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": f"{kind}-quantized", "config_groups": {"group_0": scheme},
        "quantization_status": "compressed", "ignore": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["int", "float"])
def test_logits_are_those_of_the_library(tmp_path: Path, kind: Kind) -> None:
    folder, tokens = write(tmp_path / kind, kind), blocks(2)
    with torch.inference_mode():
        ours = load_for_compute(folder)(input_ids=tokens).logits
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=tokens).logits
        original = load_for_compute(write_llama(tmp_path / "dense"))(input_ids=tokens).logits
    assert torch.equal(ours, theirs) and not torch.allclose(ours, original, rtol=1e-4)


@pytest.mark.parametrize("kind", ["int", "float"])
def test_its_facts_are_read(tmp_path: Path, kind: Kind) -> None:
    folder = write(tmp_path / kind, kind)
    facts, dense = describe(folder), describe(write_llama(tmp_path / "dense"))
    assert (facts.bits, facts.parameters, facts.dtype) == (8, dense.parameters, "float32")
    reports = list(measure_layers(tmp_path / "dense", check_supported(folder).folder, blocks(4), method="w8a8"))
    assert len(reports) == len(LINEARS)
    assert all(0 < (report.error or 0) < 0.01 and report.bits == 8 for report in reports)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "int", "int")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{LINEARS[3]}.weight_scale"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match=f"weights of {LINEARS[3]} are damaged"):
        Checkpoint(folder).linear(LINEARS[3])


def test_a_variant_that_is_not_read_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "int", "int")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["dynamic"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedModel, match="format that cannot be read"):
        load_for_compute(folder)


def test_it_is_not_exported_as_if_inputs_were_not_rounded(tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match=r"does not round the inputs|cannot be exported to ONNX"):
        export_onnx(write(tmp_path / "float", "float"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_errors_are_those_of_a_pass_of_ours(tmp_path: Path) -> None:
    source, made = write_llama(tmp_path / "source"), tmp_path / "made"
    ours = list(quantize_folder(source, made, blocks(4), method="rtn", bits=4, group_size=32, damping=0.01))
    again = list(measure_layers(source, made, blocks(4), method="rtn"))
    assert [report.layer for report in again] == [report.layer for report in ours]
    for one, other in zip(again, ours, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-3) and one.sparsity == other.sparsity


def test_what_was_left_undone_is_a_fallback(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source")
    pruned = prune(source, tmp_path / "pruned", 0.5)
    tokens = blocks(4)
    enough = measure_layers(source, pruned, tokens, method="magnitude", zeros=0.5)
    assert [report.fallback for report in enough if report.fallback] == []
    few = next(measure_layers(source, pruned, tokens, method="magnitude", zeros=0.6))
    assert few.fallback == "50.0% zeros where 60.0% were asked for"
    pattern = next(measure_layers(source, pruned, tokens, method="magnitude", zeros=Pattern(2, 4)))
    assert "groups of 4 have more than 2 weights" in str(pattern.fallback)
    dense = quantize(source, tmp_path / "quantized")
    back = next(measure_layers(pruned, dense, tokens, method="gptq", comparable=False))
    assert back.error is None and "pruned zeros became weights again" in str(back.fallback)
