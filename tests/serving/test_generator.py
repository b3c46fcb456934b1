"""What a folder becomes when the container loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.compression.conversion import convert_folder
from tasks.compression.layouts import Layout
from tasks.compression.loading import load_for_compute
from tasks.compression.packing import Packing
from tasks.compression.quantization import round_to_nearest
from tasks.serving.generator import Generator, Interrupted
from tasks.serving.payload import BadRequest, Request
from tests.compression.small import write_llama
from tests.serving.tiny_folder import CONTEXT, write_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


def _packed_and_dense(folder: Path, into: Path, packing: Packing) -> tuple[Path, Path]:
    """``folder`` with packed block linears, and the dense folder of the very weights that the packed one means."""
    packed, dense = into / "packed", into / "dense"
    shutil.copytree(folder, packed)
    shutil.copytree(folder, dense)
    weights, stored, meant = load_file(folder / "model.safetensors"), {}, {}
    for name, weight in weights.items():
        if "_proj." not in name:
            stored[name] = meant[name] = weight
            continue
        linear = round_to_nearest(weight, packing)
        stored |= linear.to_tensors(name.removesuffix(".weight"))
        meant[name] = linear.dequantize(linear.scale.dtype).float()
    save_file(stored, packed / "model.safetensors", metadata={"format": "pt"})
    save_file(meant, dense / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = packing.to_config()
    (packed / "config.json").write_text(json.dumps(config))
    return packed, dense


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_folder_is_dense_float32_after_loading_and_says_the_same(
    folder: Path, tmp_path: Path, bits: int, symmetric: bool
) -> None:
    packed_folder, dense_folder = _packed_and_dense(folder, tmp_path, Packing(bits, 32, symmetric))
    packed, dense = Generator(packed_folder), Generator(dense_folder)
    expected = dict(dense.model.named_parameters())
    loaded = dict(packed.model.named_parameters())
    # No packed tensor is left, so no decode step decompresses; the weights are the ones that the codes mean.
    assert set(loaded) == set(expected)
    assert {parameter.dtype for parameter in loaded.values()} == {torch.float32}
    assert {type(module) for module in packed.model.modules()} == {type(module) for module in dense.model.modules()}
    for name, parameter in loaded.items():
        assert torch.equal(parameter, expected[name]), name
    request = Request(prompts=("hello", "a longer prompt"), max_new_tokens=12)
    assert packed.generate(request, lambda: False) == dense.generate(request, lambda: False)


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "int-quantized"])
def test_other_formats_are_served_with_what_the_gate_measured(tmp_path: Path, layout: Layout) -> None:
    packing = Packing(8, 0, True) if layout == "int-quantized" else Packing(3, 32, False)
    packed, _ = _packed_and_dense(write_llama(tmp_path / "model"), tmp_path, packing)
    list(convert_folder(packed, tmp_path / "converted", layout))
    tokens = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        served = Generator(tmp_path / "converted").model(input_ids=tokens).logits
        measured = load_for_compute(tmp_path / "converted")(input_ids=tokens).logits
    assert float((served - measured).abs().max() / measured.abs().max()) < 1e-5


def test_a_folder_without_one_of_its_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj"):
        Generator(tmp_path / "model")


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        Generator(tmp_path / "model")


def test_weights_that_are_not_finite_are_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not finite"):
        Generator(tmp_path / "model").check()


def test_the_folders_own_sampling_defaults_do_not_turn_greedy_into_sampling(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 5.0}))
    request = Request(prompts=("hello",), max_new_tokens=16)
    sampling = Generator(tmp_path / "model")
    assert sampling.generate(request, lambda: False) == Generator(folder).generate(request, lambda: False)


def test_it_stops_when_asked_and_refuses_what_does_not_fit(folder: Path) -> None:
    generator = Generator(folder)
    asked = 0

    def after_three() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Interrupted):
        generator.generate(Request(prompts=("hello",), max_new_tokens=1000), after_three)
    assert asked < 10
    with pytest.raises(BadRequest, match="inputs"):
        generator.generate(Request(prompts=("a" * CONTEXT,), max_new_tokens=1), lambda: False)
    with pytest.raises(BadRequest, match="at most 1: the context"):
        generator.generate(Request(prompts=("a" * (CONTEXT - 1),), max_new_tokens=2), lambda: False)
