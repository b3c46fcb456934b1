"""Values by layer under one budget: kept exactly, read back everywhere, and masks stay through them."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tasks.compression.budget import REACH, prune_by_sensitivity, quantize_to_budget
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.distillation import distill_folder
from tasks.compression.folder_facts import describe
from tasks.compression.hessian import accumulate, empty
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.loading import load_for_compute
from tasks.compression.mixed import Mixed, read_grids
from tasks.compression.onnx_export import export_onnx
from tasks.compression.packing import Packing
from tasks.compression.quantization import round_to_nearest
from tasks.compression.resuming import Partial
from tasks.compression.sensitivity import errors, output_gradients
from tasks.compression.transforms import Quantize
from tasks.errors import RefusedModel, RefusedRecipe
from tasks.serving.generator import Generator
from tasks.serving.onnx_session import OnnxDecoder
from tests.compression.families import write_family
from tests.compression.small import LINEARS, blocks, write_llama

TOKENS = blocks(6)
GRID: dict[str, Any] = {"method": "gptq", "group_size": 32}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher, pruned by layer with its statistics, and the same quantized to 4.5 bits a weight."""
    home = tmp_path_factory.mktemp("budget")
    write_llama(home / "teacher")
    pruned = prune_by_sensitivity(
        home / "teacher", home / "pruned", TOKENS, method="sparsegpt", sparsity=0.5, keep_statistics=True
    )
    for _ in pruned:
        pass
    for _ in quantize_to_budget(home / "pruned", home / "mixed", TOKENS, mean_bits=4.5, **GRID):
        pass
    return home


def stored_bits_a_weight(folder: Path) -> float:
    """Bits of packed codes and scales on disk, by weight."""
    bits = weights = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a dict)
                if name.endswith(("weight_packed", "weight_scale")):
                    bits += 8 * opened.get_tensor(name).nbytes
                elif name.endswith("weight_shape"):
                    weights += int(opened.get_tensor(name).prod())
    return bits / weights


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_for_compute(folder)(input_ids=TOKENS).logits


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "wanda"])
def test_zeros_differ_by_layer_and_sum_to_what_was_asked(llama: Path, tmp_path: Path, method: str) -> None:
    reports = list(prune_by_sensitivity(llama, tmp_path / "out", TOKENS, method=method, sparsity=0.5))
    shares = [report.sparsity for report in reports]
    assert max(shares) - min(shares) > REACH / 2
    zeros = sum(report.sparsity * report.rows * report.columns for report in reports)
    weights = sum(report.rows * report.columns for report in reports)
    # Magnitude cuts a layer to the weight; the others cut each block of columns or each row, so a block or row rounds.
    allowed = {"magnitude": len(reports), "sparsegpt": len(reports), "wanda": sum(report.rows for report in reports)}
    assert abs(zeros - 0.5 * weights) <= 0.5 * allowed[method]
    assert all(abs(share - 0.5) <= REACH + 0.01 for share in shares)


@pytest.mark.parametrize("mean_bits", [3.1, 4.5])
def test_the_files_keep_the_budget(home: Path, tmp_path: Path, mean_bits: float) -> None:
    reports = list(quantize_to_budget(home / "teacher", tmp_path / "out", TOKENS, mean_bits=mean_bits, **GRID))
    assert stored_bits_a_weight(tmp_path / "out") <= mean_bits
    assert describe(tmp_path / "out").bits == pytest.approx(
        sum(report.bits * report.rows * report.columns for report in reports)
        / sum(report.rows * report.columns for report in reports)
    )


def test_every_reader_gives_each_layer_its_own_grid(home: Path) -> None:
    checkpoint = Checkpoint(home / "mixed")
    assert isinstance(checkpoint.packing, Mixed)
    assert len({checkpoint.packing.of(name).bits for name in LINEARS}) > 1
    model, served = load_for_compute(home / "mixed"), Generator(home / "mixed").model
    for name in LINEARS:
        assert torch.equal(model.get_submodule(name).weight, checkpoint.linear(name))
    # Ordinary layers: a wrapper or a packed tensor that is left would cost time at every token.
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in load_for_compute(home / "teacher").named_parameters()
    }
    plain = AutoModelForCausalLM.from_pretrained(home / "mixed", dtype=torch.float32)
    with torch.inference_mode():
        expected = model(input_ids=TOKENS).logits
        assert torch.equal(served(input_ids=TOKENS).logits, expected)
        assert torch.equal(plain(input_ids=TOKENS).logits, expected)


def test_the_exported_graph_carries_every_grid(home: Path, tmp_path: Path) -> None:
    bits = {name: Checkpoint(home / "mixed").packing.of(name).bits for name in LINEARS}  # type: ignore[union-attr]
    assert any(bits[query] != bits[query.replace("q_proj", "v_proj")] for query in LINEARS if "q_proj" in query)
    record = export_onnx(home / "mixed", tmp_path / "onnx", head="float32", accuracy_level=0)
    assert "int4, groups of 32" in record["weights"]
    made = torch.as_tensor(OnnxDecoder(tmp_path / "onnx", 1).logits(TOKENS[:1].numpy()))
    expected = logits(home / "mixed")[:1]
    assert float((made - expected).abs().max() / expected.std()) < 1e-4


def test_distillation_moves_scales_and_nothing_else(home: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"epochs": 2, "batch_blocks": 2, "learning_rate": 3e-3, "temperature": 2.0}
    steps = distill_folder(home / "mixed", home / "teacher", tmp_path / "out", TOKENS, hard_share=0.1, seed=0, **recipe)
    assert len(list(steps)) == 6
    before, after = Checkpoint(home / "mixed"), Checkpoint(tmp_path / "out")
    assert after.config["quantization_config"] == before.config["quantization_config"]
    for name in LINEARS:
        was, now = before.packed(name), after.packed(name)
        assert was is not None and now is not None
        assert torch.equal(was.codes, now.codes) and now.bits == was.bits
        assert not torch.equal(was.scale, now.scale)


@cache
def pruned(folder: Path, method: str, allocation: str) -> Path:
    made = folder / f"{method}-{allocation}"
    work = prune_folder if allocation == "uniform" else prune_by_sensitivity
    for _ in work(folder / "teacher", made, TOKENS, method=method, sparsity=0.5, keep_statistics=True):
        pass
    return made


@settings(max_examples=8, deadline=None)
@given(
    method=st.sampled_from(["sparsegpt", "wanda", "magnitude"]),
    allocation=st.sampled_from(["uniform", "sensitivity"]),
    rounding=st.sampled_from(["gptq", "rtn"]),
    bits=st.sampled_from([2, 3, 4, 8, 3.4, 4.6]),
    group=st.sampled_from([0, 32, 64]),
)
def test_masks_survive_quantization_exactly(
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    method: str,
    allocation: str,
    rounding: str,
    bits: float,
    group: int,
) -> None:
    source, out = pruned(home, method, allocation), tmp_path_factory.mktemp("masks") / "out"
    options: dict[str, Any] = {"method": rounding, "group_size": group}
    if isinstance(bits, int):
        reports = quantize_folder(source, out, TOKENS, bits=bits, **options)
    else:
        reports = quantize_to_budget(source, out, TOKENS, mean_bits=bits, **options)
    assert len(list(reports)) == len(LINEARS)
    before, after = Checkpoint(source), Checkpoint(out)
    for name in LINEARS:
        zeros = before.linear(name) == 0
        assert float(zeros.float().mean()) > 0.2
        assert not bool(after.linear(name)[zeros].any())


def test_a_layers_expected_loss_is_the_models(llama: Path) -> None:
    """Predicted from gradients and inputs; measured by running the model with the layer changed."""
    tokens, packing = blocks(24), Packing(4, 32, True)
    squares = {name: each.cpu() for name, each in output_gradients(llama, tokens).items()}
    inputs: dict[str, torch.Tensor] = {}
    model = load_for_compute(llama)

    def keep(name: str, layer: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs.setdefault(name, arguments[0].flatten(0, 1))

    for name in LINEARS:
        model.get_submodule(name).register_forward_pre_hook(partial(keep, name))
    with torch.inference_mode():
        dense = functional.log_softmax(model(input_ids=tokens).logits, dim=-1)
        for name in ("model.layers.0.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj"):
            layer = model.get_submodule(name)
            weight, statistics = layer.weight.clone(), empty(layer.in_features)
            accumulate(statistics, inputs[name])
            (predicted,) = errors(name, weight, statistics, squares[name], [Quantize("rtn", packing, 0.01)])
            layer.weight.copy_(round_to_nearest(weight, packing).dequantize())
            changed = functional.log_softmax(model(input_ids=tokens).logits, dim=-1)
            layer.weight.copy_(weight)
            measured = float((dense.exp() * (dense - changed)).sum(-1).mean())
            assert measured / 2.5 < predicted < 2.5 * measured, (name, measured, predicted)


def test_what_was_measured_is_kept_for_the_next_process(llama: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert len(list(quantize_to_budget(llama, whole, TOKENS, mean_bits=4.5, **GRID))) == len(LINEARS)
    stopped = quantize_to_budget(
        llama, tmp_path / "out", TOKENS, mean_bits=4.5, partial=Partial(tmp_path / "parts"), **GRID
    )
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    kept = (tmp_path / "parts" / "allocation.json").stat().st_mtime_ns
    again = Partial(tmp_path / "parts")
    assert len(list(quantize_to_budget(llama, tmp_path / "out", TOKENS, mean_bits=4.5, partial=again, **GRID))) == len(
        LINEARS
    )
    assert again.resumed == 1
    assert (tmp_path / "parts" / "allocation.json").stat().st_mtime_ns == kept
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "opt 350m"])
def test_other_decoders_get_values_by_layer_too(tmp_path: Path, family: str) -> None:
    folder = write_family(family, tmp_path / "model")
    pruned = list(prune_by_sensitivity(folder, tmp_path / "out", TOKENS, method="wanda", sparsity=0.4))
    assert len({round(report.sparsity, 1) for report in pruned}) > 1
    assert describe(tmp_path / "out").sparsity == pytest.approx(0.4, abs=0.01)
    if family == "gpt2":
        with pytest.raises(RefusedRecipe, match="Conv1D"):
            quantize_to_budget(folder, tmp_path / "int", TOKENS, mean_bits=4.5, method="rtn", group_size=32)
        return
    for _ in quantize_to_budget(folder, tmp_path / "int", TOKENS, mean_bits=4.5, method="rtn", group_size=32):
        pass
    checkpoint, model = Checkpoint(tmp_path / "int"), load_for_compute(tmp_path / "int")
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        assert torch.equal(model.get_submodule(name).weight, checkpoint.linear(name))


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_family("bert", tmp_path / "model")
    with pytest.raises(RefusedModel, match="encoder"):
        prune_by_sensitivity(folder, tmp_path / "out", TOKENS, method="wanda", sparsity=0.4)


@pytest.mark.parametrize("mean_bits", [2.4, 8.6])
def test_a_budget_that_nothing_fits_is_refused_before_work(llama: Path, tmp_path: Path, mean_bits: float) -> None:
    with pytest.raises(RefusedRecipe, match="budget"):
        quantize_to_budget(llama, tmp_path / "out", TOKENS, mean_bits=mean_bits, **GRID)
    assert not (tmp_path / "out").exists()


def test_a_layer_that_config_does_not_name_is_refused(home: Path) -> None:
    config = json.loads((home / "mixed" / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    first = groups["group_0"]["targets"][0]
    groups["group_0"]["targets"] = groups["group_0"]["targets"][1:]
    grids = read_grids(config)
    assert grids is not None
    with pytest.raises(RefusedModel, match=first):
        grids.of(first)
