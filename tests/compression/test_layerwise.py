"""Whole folders: what is written is what plain transformers reads, and what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tasks.compression import layerwise, walking
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_recipe
from tasks.compression.decoder import Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.folder_facts import describe
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.contracts import LayerReport
from tasks.errors import RefusedData, RefusedModel, RefusedRecipe, SlimlineError
from tests.compression.small import LINEARS, VOCABULARY, blocks, write_tokenizer

GRID: dict[str, Any] = {"method": "gptq", "bits": 4, "group_size": 32, "symmetric": True, "damping": 0.01}


def quantized(source: Path, destination: Path, **changes: Any) -> list[LayerReport]:
    return list(quantize_folder(source, destination, blocks(6), **(GRID | changes)))


def pruned(source: Path, destination: Path, **changes: Any) -> list[LayerReport]:
    wanted: dict[str, Any] = {"method": "sparsegpt", "sparsity": 0.4, "damping": 0.01} | changes
    return list(prune_folder(source, destination, blocks(6), **wanted))


@torch.no_grad()
def logits(folder: Path, tokens: Tensor) -> Tensor:
    """Of the folder as anyone loads it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    result: Tensor = model(tokens).logits
    return result


@torch.no_grad()
def our_logits(folder: Path, tokens: Tensor) -> Tensor:
    """Of the folder as the engine reads it: our dequantized weights, block by block."""
    checkpoint = Checkpoint(folder)
    decoder = Decoder(checkpoint)
    states, calls = decoder.embed(tokens), decoder.calls(tokens.shape[1])
    for index in range(checkpoint.blocks):
        states = calls[index](decoder.take_block(index), states.to(compute_device())).to(HOST)
    scale = torch.rsqrt(states.square().mean(-1, keepdim=True) + float(checkpoint.config["rms_norm_eps"]))
    head = "model.embed_tokens.weight" if checkpoint.tied else "lm_head.weight"
    return states * scale * checkpoint.values("model.norm.weight") @ checkpoint.values(head).T


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_plain_transformers_reads_the_integers_that_were_written(llama: Path, tmp_path: Path, bits: int) -> None:
    reports = quantized(llama, tmp_path / "out", bits=bits)
    tokens = blocks(2, seed=9)
    reloaded, ours = logits(tmp_path / "out", tokens), our_logits(tmp_path / "out", tokens)
    torch.testing.assert_close(reloaded, ours, rtol=1e-4, atol=1e-4)
    # And the weights do change with the bits: reading them wrongly on both sides alike would not pass.
    moved = (reloaded - logits(llama, tokens)).square().mean() / logits(llama, tokens).var()
    assert 0 < moved < {8: 0.01, 4: 0.3, 3: 1.0, 2: 2.0}[bits]
    assert [report.layer for report in reports] == list(LINEARS)
    assert {report.bits for report in reports} == {float(bits)}


@pytest.mark.parametrize(("bits", "method"), [(8, "gptq"), (4, "gptq"), (4, "rtn")])
def test_one_scale_a_row_is_read_by_plain_transformers(llama: Path, tmp_path: Path, bits: int, method: str) -> None:
    quantized(llama, tmp_path / "out", bits=bits, method=method, group_size=0)
    layer = Checkpoint(tmp_path / "out").packed(LINEARS[-1])
    assert layer is not None
    assert layer.scale.shape == (64, 1)
    tokens = blocks(2, seed=9)
    torch.testing.assert_close(
        logits(tmp_path / "out", tokens), our_logits(tmp_path / "out", tokens), rtol=1e-4, atol=1e-4
    )


def test_smaller_groups_lose_less(llama: Path, tmp_path: Path) -> None:
    lost = [
        sum(report.error for report in quantized(llama, tmp_path / f"g{size}", group_size=size, bits=3))
        for size in (32, 0)
    ]
    assert lost[0] < 0.95 * lost[1]


def test_the_order_of_columns_changes_the_result_and_not_the_format(llama: Path, tmp_path: Path) -> None:
    quantized(llama, tmp_path / "a")
    quantized(llama, tmp_path / "b", act_order=False)
    one, other = Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "b")
    assert one.config == other.config
    assert not torch.equal(one.linear(LINEARS[0]), other.linear(LINEARS[0]))


def test_a_quantized_folder_generates(llama: Path, tmp_path: Path) -> None:
    quantized(llama, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert model.generate(blocks(1), max_new_tokens=4, do_sample=False).shape[1] > blocks(1).shape[1]


def test_the_untouched_engine_is_the_model(llama: Path) -> None:
    tokens = blocks(3, seed=4)
    torch.testing.assert_close(our_logits(llama, tokens), logits(llama, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["sparsegpt", "magnitude"])
def test_pruning_reaches_the_sparsity_and_reloads(llama: Path, tmp_path: Path, method: str) -> None:
    reports = pruned(llama, tmp_path / "out", method=method)
    facts = describe(tmp_path / "out")
    assert facts.sparsity == pytest.approx(0.4, abs=1e-3)
    assert facts.dtype == "float32"
    assert [report.sparsity for report in reports] == pytest.approx([0.4] * len(LINEARS), abs=1e-3)
    tokens = blocks(2, seed=9)
    torch.testing.assert_close(
        logits(tmp_path / "out", tokens), our_logits(tmp_path / "out", tokens), rtol=1e-4, atol=1e-4
    )


def test_zeros_of_a_pruned_folder_stay_zero_through_quantization(llama: Path, tmp_path: Path) -> None:
    pruned(llama, tmp_path / "pruned")
    quantized(tmp_path / "pruned", tmp_path / "out")
    before, after = Checkpoint(tmp_path / "pruned"), Checkpoint(tmp_path / "out")
    for name in LINEARS:
        zero = before.linear(name) == 0
        assert int(zero.sum()) > 0
        assert bool((after.linear(name)[zero] == 0).all()), name


def test_statistics_that_pruning_kept_spare_quantization_its_pass(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned(llama, tmp_path / "pruned", keep_statistics=True)
    pruned(llama, tmp_path / "bare")
    assert describe(tmp_path / "pruned") == describe(tmp_path / "bare")
    own = quantized(tmp_path / "bare", tmp_path / "own")
    # No decoder, no forward pass.
    monkeypatch.setattr(layerwise, "Decoder", None)
    kept = quantized(tmp_path / "pruned", tmp_path / "kept")
    assert [report.layer for report in kept] == [report.layer for report in own]
    # The first group of the first block reads the same either way.
    assert [report.error for report in kept[:3]] == pytest.approx([report.error for report in own[:3]], rel=1e-2)
    assert sum(report.error for report in kept) == pytest.approx(sum(report.error for report in own), rel=0.2)
    before, after = Checkpoint(tmp_path / "pruned"), Checkpoint(tmp_path / "kept")
    for name in LINEARS:
        assert bool((after.linear(name)[before.linear(name) == 0] == 0).all())
    assert not (tmp_path / "kept" / "statistics").exists()


@pytest.mark.parametrize("harm", ["other tokens", "a block is missing"])
def test_statistics_that_do_not_belong_are_not_used(llama: Path, tmp_path: Path, harm: str) -> None:
    pruned(llama, tmp_path / "pruned", keep_statistics=True)
    tokens = blocks(6, seed=1) if harm == "other tokens" else blocks(6)
    if harm == "a block is missing":
        (tmp_path / "pruned" / "statistics" / "statistics-00002.safetensors").unlink()
    list(quantize_folder(tmp_path / "pruned", tmp_path / "kept", tokens, **GRID))
    pruned(llama, tmp_path / "bare")
    list(quantize_folder(tmp_path / "bare", tmp_path / "own", tokens, **GRID))
    assert files(tmp_path / "kept") == files(tmp_path / "own")


def test_calibration_beats_rounding_and_cutting(llama: Path, tmp_path: Path) -> None:
    def total(reports: list[LayerReport]) -> float:
        return sum(report.error for report in reports)

    assert total(quantized(llama, tmp_path / "a")) < 0.9 * total(quantized(llama, tmp_path / "b", method="rtn"))
    assert total(pruned(llama, tmp_path / "c")) < 0.9 * total(pruned(llama, tmp_path / "d", method="magnitude"))


def test_the_same_input_gives_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    quantized(llama, tmp_path / "a")
    quantized(llama, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_batches_that_wait_give_what_one_batch_gives(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pruned(llama, tmp_path / "whole")
    monkeypatch.setattr(walking, "_BATCH_BYTES", 1)
    parts = pruned(llama, tmp_path / "parts")
    assert [report.error for report in parts] == pytest.approx([report.error for report in whole], rel=1e-2)
    one, other = Checkpoint(tmp_path / "whole"), Checkpoint(tmp_path / "parts")
    for name in LINEARS:
        assert float(((one.linear(name) - other.linear(name)).abs() > 1e-3).float().mean()) < 0.01


def test_a_packed_folder_is_read_and_quantized_again(llama: Path, tmp_path: Path) -> None:
    quantized(llama, tmp_path / "eight", bits=8)
    quantized(tmp_path / "eight", tmp_path / "four")
    assert describe(tmp_path / "four").bits == 4.0
    assert torch.isfinite(logits(tmp_path / "four", blocks(1))).all()


FAMILIES = [
    LlamaConfig(attention_bias=True, mlp_bias=True),
    MistralConfig(sliding_window=None),
    Qwen2Config(),
    Qwen3Config(head_dim=16),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: str(config.model_type))
def test_each_family_of_the_entry(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.update(
        {
            "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 16,
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    if hasattr(config, "layer_types"):
        config.layer_types = ["full_attention"] * 2
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "dense")
    write_tokenizer(tmp_path / "dense", VOCABULARY)
    pruned(tmp_path / "dense", tmp_path / "pruned")
    quantized(tmp_path / "pruned", tmp_path / "out")
    tokens = blocks(2, seed=9)
    torch.testing.assert_close(
        our_logits(tmp_path / "dense", tokens), logits(tmp_path / "dense", tokens), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        our_logits(tmp_path / "out", tokens), logits(tmp_path / "out", tokens), rtol=1e-4, atol=1e-4
    )


def test_a_singular_hessian_is_in_the_report(llama: Path, tmp_path: Path) -> None:
    # One block of 24 tokens gives layers of 64 and 128 inputs a Hessian of rank 24.
    reports = list(quantize_folder(llama, tmp_path / "out", blocks(1), **(GRID | {"damping": 1e-12})))
    assert all("damping raised" in str(report.fallback) for report in reports)


def test_a_value_beyond_float16_stays_float32_and_says_so(llama: Path, tmp_path: Path) -> None:
    source = with_value(llama, tmp_path / "wide", "model.norm.weight", 1e5)
    kept = [report for report in quantized(source, tmp_path / "out") if report.layer == "model.norm.weight"]
    assert "beyond torch.float16" in str(kept[0].fallback)
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.float32
    assert float(Checkpoint(tmp_path / "out").tensor("model.norm.weight").max()) == 1e5


def with_value(source: Path, copy: Path, name: str, value: float) -> Path:
    shutil.copytree(source, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name].view(-1)[5] = value
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"])
def test_weights_that_are_not_finite_are_refused_and_nothing_stays(llama: Path, tmp_path: Path, name: str) -> None:
    source = with_value(llama, tmp_path / "damaged", name, float("nan"))
    with pytest.raises(RefusedModel, match=name):
        quantized(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_activations_that_are_not_finite_name_their_layer(llama: Path, tmp_path: Path) -> None:
    source = with_value(llama, tmp_path / "huge", "model.layers.0.mlp.gate_proj.weight", 3e38)
    with pytest.raises(SlimlineError, match=r"model\.layers\.0"):
        pruned(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_leaving_early_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    work: Iterator[LayerReport] = quantize_folder(llama, tmp_path / "out", blocks(4), **GRID)
    assert next(work).layer == LINEARS[0]
    work.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_a_callers_gradient_mode_is_its_own(llama: Path, tmp_path: Path) -> None:
    for _ in quantize_folder(llama, tmp_path / "out", blocks(4), **GRID):
        assert torch.is_grad_enabled()


def test_a_group_size_that_does_not_divide_is_refused_with_those_that_do(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedRecipe, match=r"(?s)64 columns.*choose 64, 32"):
        quantize_folder(llama, tmp_path / "out", blocks(4), **(GRID | {"group_size": 128}))
    check_recipe(llama, group_size=64)
    assert not (tmp_path / "out").exists()


def test_zero_points_load_when_dequantized_and_only_then(llama: Path, tmp_path: Path) -> None:
    """When the last line of this test fails, a newer library reads them: lift the refusal in ``tasks/preflight``."""
    list(quantize_folder(llama, tmp_path / "out", blocks(4), **(GRID | {"symmetric": False})))
    tokens = blocks(2)
    assert torch.isfinite(our_logits(tmp_path / "out", tokens)).all()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        logits(tmp_path / "out", tokens)


def test_pruning_a_packed_folder_is_refused(llama: Path, tmp_path: Path) -> None:
    quantized(llama, tmp_path / "packed")
    with pytest.raises(RefusedRecipe, match="off their integer grid"):
        prune_folder(tmp_path / "packed", tmp_path / "out", blocks(4), method="sparsegpt", sparsity=0.5)


@pytest.mark.parametrize("tokens", [torch.zeros(0, 24), torch.full((2, 24), VOCABULARY), torch.zeros(2, 1)])
def test_tokens_that_do_not_suit_are_refused_before_work(llama: Path, tmp_path: Path, tokens: Tensor) -> None:
    with pytest.raises(RefusedData):
        quantize_folder(llama, tmp_path / "out", tokens.long(), **GRID)


@pytest.mark.parametrize(
    ("changes", "named"), [({"bits": 5}, "8, 4, 3, 2"), ({"method": "awq"}, "gptq")], ids=["bits", "method"]
)
def test_unknown_choices_are_refused(llama: Path, tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedRecipe, match=named):
        quantize_folder(llama, tmp_path / "out", blocks(4), **(GRID | changes))
    with pytest.raises(RefusedRecipe, match=r"0\.2"):
        prune_folder(llama, tmp_path / "out", blocks(4), method="magnitude", sparsity=20)
