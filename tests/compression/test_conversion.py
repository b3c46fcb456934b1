"""Other formats hold the same integers, others read them, and pruned zeros are zeros in each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_recipe
from tasks.compression.conversion import check_shapes, convert_folder
from tasks.compression.distillation import distill_folder
from tasks.compression.eight_bits import round_inputs
from tasks.compression.folder_facts import describe
from tasks.compression.gptq_format import repack_gptq
from tasks.compression.gptq_layers import read_gptq, to_gptq
from tasks.compression.layerwise import quantize_folder
from tasks.compression.layouts import ROW_INT8, Layout, quantization_config, read_linear
from tasks.compression.loading import load_for_compute
from tasks.compression.onnx_export import export_onnx
from tasks.compression.packing import PackedLinear, Packing
from tasks.compression.pruning import magnitude
from tasks.compression.quantization import round_to_nearest
from tasks.errors import RefusedModel, RefusedRecipe
from tests.compression.conftest import random_weight
from tests.compression.small import LINEARS, blocks, prune, write_llama
from tests.compression.test_packing import Held

LEARN: dict[str, Any] = {
    "epochs": 1,
    "batch_blocks": 1,
    "learning_rate": 3e-3,
    "temperature": 1.0,
    "hard_share": 0.1,
    "seed": 0,
}
# float-quantized is only read here.
LAYOUTS: tuple[Layout, ...] = tuple(name for name in get_args(Layout) if name != "float-quantized")


def quantized(source: Path, into: Path, **choice: Any) -> Path:
    list(quantize_folder(source, into, blocks(4), **({"method": "rtn", "bits": 4, "group_size": 32} | choice)))
    return into


def converted(source: Path, layout: Layout) -> Path:
    into = source.with_name(f"{source.name}-{layout}")
    list(convert_folder(source, into, layout))
    return into


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=tokens).logits
        return found


@pytest.fixture(scope="module")
def w8a8(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(quantized(llama, tmp_path_factory.mktemp("w8a8") / "int8", bits=8, group_size=0), "int-quantized")


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([8, 4, 3, 2]),
    symmetric=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    sparsity=st.floats(0.05, 0.95),
    shift=st.sampled_from([0.0, 3.0, -3.0]),
    seed=st.integers(0, 1000),
)
def test_the_integers_come_back_and_zeros_are_exactly_zero(
    bits: int, symmetric: bool, layout: Layout, sparsity: float, shift: float, seed: int
) -> None:
    """A shift makes all weights of a group one sign, where a zero point is at the grid's end."""
    weight = magnitude(random_weight(32, 64, seed=seed) + shift, sparsity)
    packing = ROW_INT8 if layout == "int-quantized" else Packing(bits, 32, symmetric)
    layer = round_to_nearest(weight, packing)
    if layout == "int-quantized":
        stored = {"layer.weight": layer.codes, "layer.weight_scale": layer.scale}
    elif layout == "pack-quantized":
        stored = layer.to_tensors("layer")
    else:
        stored = to_gptq(layer, "layer", 2 if layout == "gptq_v2" else 1)
    read = read_linear(Held(stored), "layer", packing, layout)
    assert torch.equal(read.codes, layer.codes)
    assert torch.equal(read.dequantize(), layer.dequantize())
    assert bool((read.dequantize()[weight == 0] == 0).all())
    assert bool(read.zeros[weight == 0].all())


@pytest.mark.parametrize(
    ("layout", "bits", "group", "symmetric"),
    [("gptq", 8, 32, True), ("gptq_v2", 4, 0, True), ("gptq", 3, 32, False), ("gptq_v2", 2, 32, False)],
)
def test_a_gptq_folder_computes_what_its_source_does(
    llama: Path, tmp_path: Path, layout: Layout, bits: int, group: int, symmetric: bool
) -> None:
    pruned = prune(llama, tmp_path / "pruned")
    packed = quantized(pruned, tmp_path / "packed", bits=bits, group_size=group, symmetric=symmetric)
    folder, tokens = converted(packed, layout), blocks(2)
    assert torch.equal(logits(load_for_compute(folder), tokens), logits(load_for_compute(packed), tokens))
    facts, before = describe(folder), describe(packed)
    assert (facts.bits, facts.sparsity, facts.parameters) == (bits, before.sparsity, before.parameters)
    assert facts.sparsity > 0.45
    described = json.loads((folder / "quantize_config.json").read_text())
    assert described == json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (described["checkpoint_format"], described["sym"], described["desc_act"]) == (layout, symmetric, False)
    repack_gptq(folder, tmp_path / "again")
    for name in LINEARS:
        first, last = (Checkpoint(made).packed(name) for made in (packed, tmp_path / "again"))
        assert first and last and torch.equal(first.codes, last.codes) and torch.equal(first.scale, last.scale)


def test_w8a8_runs_with_rounded_activations_in_transformers_and_here(w8a8: Path, llama: Path) -> None:
    tokens = blocks(4)
    ours = logits(load_for_compute(w8a8), tokens)
    theirs = logits(AutoModelForCausalLM.from_pretrained(w8a8, dtype=torch.float32), tokens)
    assert float((ours - theirs).abs().max() / ours.abs().max()) < 1e-5
    # It must be the activations: the same integers without rounding them give other logits.
    weights_only = logits(load_for_compute(w8a8.with_name("int8")), tokens)
    assert float((ours - weights_only).abs().max() / ours.abs().max()) > 1e-3
    assert 0 < float((ours - logits(load_for_compute(llama), tokens)).abs().max() / ours.abs().max()) < 0.5
    assert (describe(w8a8).bits, describe(w8a8).parameters) == (8, describe(llama).parameters)


def test_w8a8_is_what_the_libraries_own_compressor_writes(w8a8: Path) -> None:
    config = QuantizationConfig.model_validate(json.loads((w8a8 / "config.json").read_text())["quantization_config"])
    scheme, checkpoint = config.config_groups["group_0"], Checkpoint(w8a8)
    compressor = BaseCompressor.get_value_from_registry("int-quantized")
    for name in LINEARS:
        scale = checkpoint.tensor(f"{name}.weight_scale")
        made = compressor.compress({"weight": checkpoint.linear(name), "weight_scale": scale.float()}, scheme)
        assert torch.equal(made["weight"], checkpoint.tensor(f"{name}.weight"))


def test_tokens_are_rounded_as_compressed_tensors_rounds_them() -> None:
    config = quantization_config(ROW_INT8, "int-quantized", ("lm_head",))
    args = QuantizationArgs.model_validate(config["config_groups"]["group_0"]["input_activations"])
    inputs = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    scale, zero = compute_dynamic_scales_and_zp(inputs, args, nn.Linear(64, 1))
    assert torch.equal(round_inputs(inputs, "int"), fake_quantize(inputs, scale, zero, args))
    assert bool((round_inputs(torch.zeros(1, 2, 8), "int") == 0).all())


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(llama: Path, tmp_path: Path, w8a8: Path) -> None:
    packed = quantized(llama, tmp_path / "packed")
    with pytest.raises(RefusedModel, match="8 bits, symmetric, one scale a row"):
        convert_folder(packed, tmp_path / "out", "int-quantized")
    with pytest.raises(RefusedModel, match="the folder is dense"):
        convert_folder(llama, tmp_path / "out", "gptq")
    with pytest.raises(RefusedModel, match="int-quantized"):
        convert_folder(w8a8, tmp_path / "out", "gptq")
    codes = torch.zeros(32, 32, dtype=torch.int8)
    for layer, word in (
        (PackedLinear(codes, torch.ones(32, 1), None, 4, 32, True), "float32"),
        (
            PackedLinear(codes, torch.ones(32, 1).half(), torch.full((32, 1), -8).char(), 4, 32, False),
            "zero point of 0",
        ),
        (PackedLinear(codes[:8], torch.ones(8, 1).half(), None, 4, 32, True), "multiples of 32"),
    ):
        with pytest.raises(RefusedModel, match=word):
            to_gptq(layer, "layer")
    assert not (tmp_path / "out").exists()
    lowest = PackedLinear(codes, torch.ones(32, 1).half(), torch.full((32, 1), -8).char(), 4, 32, False)
    read = read_gptq(Held(to_gptq(lowest, "layer", 2)), "layer", Packing(4, 32, False), 2)
    assert torch.equal(read.dequantize(), lowest.dequantize())


def test_shapes_are_refused_before_any_work(tmp_path: Path, llama: Path) -> None:
    check_shapes(llama, "gptq")
    odd = write_llama(tmp_path / "odd")
    config = json.loads((odd / "config.json").read_text())
    assert config["num_key_value_heads"] == 2  # 32 rows
    from safetensors.torch import load_file, save_file

    tensors = load_file(odd / "model.safetensors")
    tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(16, 64)
    save_file(tensors, odd / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedRecipe, match=r"k_proj has 16 rows"):
        check_shapes(odd, "gptq")


@pytest.mark.parametrize("layout", ["gptq", "int-quantized"])
def test_no_stage_goes_on_from_a_final_format(tmp_path: Path, llama: Path, w8a8: Path, layout: Layout) -> None:
    folder = w8a8 if layout == "int-quantized" else converted(quantized(llama, tmp_path / "packed"), layout)
    with pytest.raises(RefusedModel, match="no stage goes on"):
        check_recipe(folder)
    with pytest.raises(RefusedModel, match="no stage goes on"):
        distill_folder(folder, llama, tmp_path / "out", blocks(2), **LEARN)


def test_scales_are_taught_before_the_folder_is_converted(tmp_path: Path, llama: Path) -> None:
    """The order of the flow: zero points and codes stay, scales learn, and the GPTQ folder holds what was learnt."""
    packed = quantized(llama, tmp_path / "packed", bits=3, symmetric=False)
    list(distill_folder(packed, llama, tmp_path / "taught", blocks(2), **LEARN))
    folder = converted(tmp_path / "taught", "gptq")
    before, after = Checkpoint(packed).packed(LINEARS[0]), Checkpoint(folder).packed(LINEARS[0])
    assert before and after and before.zero_point is not None and after.zero_point is not None
    assert torch.equal(after.codes, before.codes) and torch.equal(after.zero_point, before.zero_point)
    assert not torch.equal(after.scale, before.scale)


def test_a_gptq_folder_is_exported_with_its_integers_and_w8a8_is_refused(
    tmp_path: Path, llama: Path, w8a8: Path
) -> None:
    packed = quantized(llama, tmp_path / "packed", symmetric=False)
    for folder, into in ((packed, "one"), (converted(packed, "gptq"), "two")):
        export_onnx(folder, tmp_path / into)
    assert (tmp_path / "one/model.onnx.data").read_bytes() == (tmp_path / "two/model.onnx.data").read_bytes()
    with pytest.raises(RefusedModel, match="format cannot be exported"):
        export_onnx(w8a8, tmp_path / "three")


def test_sparse_bitmask_is_read_by_nobody_and_not_here(tmp_path: Path, llama: Path) -> None:
    """When the first half fails, a newer compressed-tensors has the format back: see ``docs/formats.md``."""
    with pytest.raises(KeyError, match="sparse-bitmask"):
        BaseCompressor.get_value_from_registry("sparse-bitmask")
    folder = prune(llama, tmp_path / "pruned")
    config = json.loads((folder / "config.json").read_text())
    sparse = {"format": "sparse-bitmask", "sparsity_structure": "unstructured", "targets": ["Linear"]}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "dense", "sparsity_config": sparse}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedModel, match="cannot be read here"):
        load_for_compute(folder)
