"""Structured pruning: the right structures go, the rest makes up for them, and the folder says its own shape."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.folder_facts import describe
from tasks.compression.hessian import InputStatistics, output_error
from tasks.compression.influence import influential_blocks
from tasks.compression.layerwise import quantize_folder
from tasks.compression.slimming import slim_folder
from tasks.compression.structured import Shape, check_shares, remove_columns, smaller_shape
from tasks.errors import RefusedRecipe
from tests.compression.conftest import correlated, random_weight
from tests.compression.small import VOCABULARY, blocks, perturb, quantize, write_llama, write_tokenizer


def best_refit(weight: Tensor, statistics: InputStatistics, kept: list[int], damping: float) -> tuple[Tensor, float]:
    """The least-squares weights of ``kept`` columns in float64, and the damped error that they leave."""
    gram = statistics.gram.double()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=torch.float64)
    refit = torch.zeros_like(weight, dtype=torch.float64)
    refit[:, kept] = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weight.double().T).T
    lost = weight.double() - refit
    return refit.float(), float(torch.sum((lost @ gram) * lost))


@pytest.mark.parametrize(("size", "keep"), [(1, 20), (4, 3), (8, 1)])
def test_what_is_left_is_the_least_squares_refit(size: int, keep: int) -> None:
    statistics, weight = correlated(32), random_weight(12, 32)
    removal = remove_columns(weight, statistics, size, keep, 0.01)
    columns = removal.kept.repeat_interleave(size)
    assert int(removal.kept.sum()) == keep
    assert bool((removal.weight[:, ~columns] == 0).all())
    expected, _ = best_refit(weight, statistics, columns.nonzero().flatten().tolist(), 0.01)
    torch.testing.assert_close(removal.weight, expected, rtol=1e-2, atol=2e-3)


def test_wide_structures_are_chosen_with_several_threads() -> None:
    """Of 192 columns and more: MKL's LU of such a batch failed on AMD's processors, and only with two threads."""
    statistics, weight, threads = correlated(576), random_weight(64, 576), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        removal = remove_columns(weight, statistics, 192, 2, 0.01)
    finally:
        torch.set_num_threads(threads)
    columns = removal.kept.repeat_interleave(192)
    expected, _ = best_refit(weight, statistics, columns.nonzero().flatten().tolist(), 0.01)
    torch.testing.assert_close(removal.weight, expected, rtol=1e-2, atol=5e-3)


def test_the_choice_is_near_the_best_of_all() -> None:
    statistics, weight = correlated(32), random_weight(12, 32)
    chosen = remove_columns(weight, statistics, 4, 4, 0.01).kept.nonzero().flatten().tolist()

    def error(groups: tuple[int, ...] | list[int]) -> float:
        return best_refit(weight, statistics, [4 * group + i for group in groups for i in range(4)], 0.01)[1]

    every = sorted(error(groups) for groups in combinations(range(8), 4))
    assert error(chosen) <= every[len(every) // 20]


def test_repairing_beats_leaving_out() -> None:
    statistics, weight = correlated(64), random_weight(16, 64)
    removal = remove_columns(weight, statistics, 1, 40, 0.01)
    left_out = weight * removal.kept
    assert output_error(weight, removal.weight, statistics.gram) < 0.5 * output_error(weight, left_out, statistics.gram)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("slim")
    write_llama(home / "even", blocks=4)
    return perturb(home / "even", home / "noisy", share=0.05)


@torch.no_grad()
def logits(folder: Path, tokens: Tensor) -> Tensor:
    result: Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits
    return result


def test_the_folder_is_smaller_says_so_and_loads(model: Path, tmp_path: Path) -> None:
    reports = list(slim_folder(model, tmp_path / "out", blocks(8), heads=0.5, channels=0.25, blocks=0.25))
    config = AutoConfig.from_pretrained(tmp_path / "out")
    shape = (config.num_key_value_heads, config.num_attention_heads, config.intermediate_size, config.num_hidden_layers)
    assert shape == (1, 2, 96, 3)
    assert config.head_dim == 16
    before, after = describe(model), describe(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.num_parameters() == after.parameters < 0.7 * before.parameters
    assert len(reports) == 3 * 7
    assert {(report.rows, report.columns) for report in reports if report.layer.endswith("o_proj")} == {(64, 32)}
    assert all(report.error > 0 for report in reports if report.layer.endswith(("o_proj", "down_proj")))
    assert torch.isfinite(logits(tmp_path / "out", blocks(2))).all()


def test_a_cut_model_computes_what_the_whole_one_with_zeros_computes(model: Path, tmp_path: Path) -> None:
    """Rows are cut where the columns that read them are zero: heads and channels must match."""
    list(slim_folder(model, tmp_path / "out", blocks(8), heads=0.5, channels=0.5, blocks=0))
    cut, whole = Checkpoint(tmp_path / "out"), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    source = Checkpoint(model)
    with torch.no_grad():
        for index, layer in enumerate(whole.model.layers):
            prefix = f"model.layers.{index}"
            for name, out, size in (
                ("self_attn.q_proj", layer.self_attn.o_proj, 16),
                ("mlp.up_proj", layer.mlp.down_proj, 1),
            ):
                rows, kept = source.values(f"{prefix}.{name}.weight"), cut.values(f"{prefix}.{name}.weight")
                places = [int((rows == row).all(1).nonzero()) for row in kept]
                assert places == sorted(places)
                assert len(places) % size == 0
                reads = {"self_attn.q_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}[name]
                out.weight.zero_()
                out.weight[:, places] = cut.values(f"{prefix}.{reads}.weight")
        tokens = blocks(3, seed=5)
        torch.testing.assert_close(logits(tmp_path / "out", tokens), whole.eval()(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_block_that_does_nothing_goes_first(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_llama(tmp_path / "model", blocks=4)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.2.{name}.weight"].zero_()
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert influential_blocks(Checkpoint(tmp_path / "model"), blocks(4), 3) == [0, 1, 3]
    list(slim_folder(tmp_path / "model", tmp_path / "out", blocks(4), heads=0, channels=0, blocks=0.25))
    assert Checkpoint(tmp_path / "out").config["kept_blocks"] == [0, 1, 3]
    tokens = blocks(2, seed=3)
    torch.testing.assert_close(
        logits(tmp_path / "out", tokens), logits(tmp_path / "model", tokens), rtol=1e-3, atol=1e-3
    )


def test_biases_and_layer_types_follow(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, layer_types=["full_attention"] * 3,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model", VOCABULARY)
    list(slim_folder(tmp_path / "model", tmp_path / "out", blocks(4), heads=0.5, channels=0.5, blocks=0.34))
    assert AutoConfig.from_pretrained(tmp_path / "out").layer_types == ["full_attention"] * 2
    assert torch.isfinite(logits(tmp_path / "out", blocks(2))).all()


def test_a_smaller_model_can_be_quantized(model: Path, tmp_path: Path) -> None:
    list(slim_folder(model, tmp_path / "slim", blocks(8), heads=0.5, channels=0.25, blocks=0))
    list(quantize_folder(tmp_path / "slim", tmp_path / "out", blocks(8), method="gptq", bits=4, group_size=32))
    assert describe(tmp_path / "out").bits == 4.0


@pytest.mark.parametrize(
    ("shares", "named"),
    [((0.0, 0.0, 0.0), "remove nothing"), ((0.1, 0.0, 0.0), "remove nothing"), ((1.0, 0.0, 0.0), "out of range")],
)
def test_shares_that_cannot_work_are_refused(shares: tuple[float, float, float], named: str, model: Path) -> None:
    with pytest.raises(RefusedRecipe, match=named):
        smaller_shape(Checkpoint(model).config, *shares)


def test_a_packed_folder_is_refused(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "packed")
    with pytest.raises(RefusedRecipe, match="off their integer grid"):
        slim_folder(tmp_path / "packed", tmp_path / "out", blocks(4), heads=0.5, channels=0, blocks=0)


def test_what_is_left_suits_quantization_groups() -> None:
    config = {"num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "num_hidden_layers": 30}
    assert smaller_shape(config, 0.33, 0.3, 0.2) == Shape(groups=2, channels=1024 + 0, blocks=24)


def test_a_group_size_that_will_not_divide_is_refused_before_work(model: Path) -> None:
    check_shares(model, 0.5, 0.25, 0, 32)
    with pytest.raises(RefusedRecipe, match=r"(?s)group size 64.*32, 96 columns"):
        check_shares(model, 0.5, 0.25, 0, 64)
