"""Distillation: what must not change does not, what must fall falls, and a failure leaves nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST
from tasks.compression.distillation import distill_folder
from tasks.compression.folder_facts import describe
from tasks.compression.loading import load_for_compute
from tasks.compression.packing import PackedLinear
from tasks.compression.trainable import ScaledLinear, make_trainable
from tasks.compression.training_loop import StepResult
from tasks.errors import RefusedData, RefusedModel, RefusedRecipe, SlimlineError
from tests.compression.small import LINEARS, blocks, perturb, prune, quantize, write_llama

RECIPE: dict[str, Any] = {
    "epochs": 4,
    "batch_blocks": 2,
    "learning_rate": 3e-3,
    "temperature": 2.0,
    "hard_share": 0.1,
    "seed": 0,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher, perturbed, pruned and packed: made once."""
    home = tmp_path_factory.mktemp("distill")
    write_llama(home / "teacher")
    perturb(home / "teacher", home / "perturbed")
    prune(home / "teacher", home / "pruned")
    quantize(home / "pruned", home / "packed")
    return home


def distill(home: Path, student: str, destination: Path, **changes: Any) -> list[StepResult]:
    recipe = RECIPE | changes
    return list(distill_folder(home / student, home / "teacher", destination, blocks(8), **recipe))


def test_loss_falls_for_a_perturbed_student(home: Path, tmp_path: Path) -> None:
    results = distill(home, "perturbed", tmp_path / "out", hard_share=0.0)
    assert len(results) == results[-1].steps == 16
    assert [result.step for result in results] == list(range(1, 17))
    assert results[-1].tokens == 4 * 8 * 24
    first, last = (sum(result.soft_loss for result in part) for part in (results[:4], results[-4:]))
    assert last < 0.6 * first
    assert max(result.learning_rate for result in results) == pytest.approx(RECIPE["learning_rate"])
    assert results[-1].learning_rate < 0.02 * RECIPE["learning_rate"]


@pytest.mark.parametrize("student", ["pruned", "packed"])
def test_loss_falls_and_zeros_stay_exactly_zero(home: Path, tmp_path: Path, student: str) -> None:
    results = distill(home, student, tmp_path / "out")
    assert sum(r.loss for r in results[-4:]) < 0.97 * sum(r.loss for r in results[:4])
    before, after = Checkpoint(home / student), Checkpoint(tmp_path / "out")
    changed = 0
    for name in LINEARS:
        zeros = before.linear(name) == 0
        assert zeros.float().mean() > 0.4
        assert bool((after.linear(name)[zeros] == 0).all())
        changed += int((after.linear(name) != before.linear(name)).sum())
    assert changed > 0


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon"])
def test_other_divergences_fall_too(home: Path, tmp_path: Path, divergence: str) -> None:
    results = distill(home, "perturbed", tmp_path / "out", hard_share=0.0, divergence=divergence)
    forward = distill(home, "perturbed", tmp_path / "forward", hard_share=0.0, epochs=1)
    assert results[0].soft_loss != pytest.approx(forward[0].soft_loss, rel=1e-3)
    first, last = (sum(result.soft_loss for result in part) for part in (results[:4], results[-4:]))
    assert last < 0.7 * first


def test_integers_stay_and_scales_and_norms_learn(home: Path, tmp_path: Path) -> None:
    distill(home, "packed", tmp_path / "out")
    before, after = Checkpoint(home / "packed"), Checkpoint(tmp_path / "out")
    assert before.names == after.names
    assert before.config["quantization_config"] == after.config["quantization_config"]
    for name in before.names:
        old, new = before.tensor(name), after.tensor(name)
        assert old.dtype == new.dtype
        learns = name.endswith((".weight_scale", "norm.weight"))
        assert torch.equal(old, new) != learns, name
    assert describe(tmp_path / "out").sparsity == describe(home / "packed").sparsity


def test_embeddings_stay(home: Path, tmp_path: Path) -> None:
    distill(home, "perturbed", tmp_path / "out", epochs=1)
    name = "model.embed_tokens.weight"
    assert torch.equal(Checkpoint(home / "perturbed").tensor(name), Checkpoint(tmp_path / "out").tensor(name))


@pytest.mark.parametrize("student", ["pruned", "packed"])
def test_same_seed_gives_the_same_bytes_and_another_does_not(home: Path, tmp_path: Path, student: str) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        distill(home, student, tmp_path / folder, epochs=1, seed=seed)
    files = {folder: weights(tmp_path / folder) for folder in "abc"}
    assert files["a"] == files["b"] != files["c"]


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_order_of_parts_does_not_change_the_batch(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch worked through block by block is the batch worked through at once."""
    whole = distill(home, "packed", tmp_path / "whole", epochs=1, batch_blocks=4)
    monkeypatch.setattr("tasks.compression.training_loop.MICRO_TOKENS", 24)
    parts = distill(home, "packed", tmp_path / "parts", epochs=1, batch_blocks=4)
    assert [r.loss for r in parts] == pytest.approx([r.loss for r in whole], rel=1e-4)
    assert [r.grad_norm for r in parts] == pytest.approx([r.grad_norm for r in whole], rel=1e-3)


def test_scale_gradient_equals_autograd() -> None:
    """The gradient for the gains, against autograd through codes · scale · exp(gain)."""
    torch.manual_seed(0)
    packed = PackedLinear(
        codes=torch.randint(-8, 8, (6, 64), dtype=torch.int8),
        scale=torch.rand(6, 2) + 0.1,
        zero_point=torch.randint(-3, 3, (6, 2), dtype=torch.int8),
        bits=4,
        group_size=32,
        symmetric=False,
    )
    layer = ScaledLinear(packed, nn.Parameter(torch.randn(6)))
    inputs = torch.randn(3, 5, 64, requires_grad=True)
    target = torch.randn(3, 5, 6)
    found = torch.autograd.grad((layer(inputs) * target).sum(), [inputs, layer.gain])
    gain = torch.zeros(6, 2, requires_grad=True)
    weight = packed.dequantize() * gain.exp().repeat_interleave(32, dim=1)
    wanted = torch.autograd.grad(((inputs @ weight.T) * target).sum(), [inputs, gain])
    torch.testing.assert_close(found, wanted)


def test_packed_output_reloads_in_plain_transformers_as_training_ended(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in memory at the last step, against what plain ``from_pretrained`` makes of the folder."""
    kept: list[nn.Module] = []

    def keep(model: Any, checkpoint: Checkpoint) -> Any:
        kept.append(model)
        return make_trainable(model, checkpoint)

    monkeypatch.setattr("tasks.compression.distillation.make_trainable", keep)
    distill(home, "packed", tmp_path / "out")
    tokens = blocks(2, seed=5)
    with torch.inference_mode():
        kept[0].to(HOST)
        trained = kept[0](input_ids=tokens).logits
        plain_model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        plain = plain_model(input_ids=tokens).logits
        ours = load_for_compute(tmp_path / "out")(input_ids=tokens).logits
    for name in LINEARS:  # scales are trained as they are stored, so these are the same to the last bit
        torch.testing.assert_close(
            plain_model.get_submodule(name).weight.data, kept[0].get_submodule(name).weight, rtol=0, atol=0
        )
    # What is left: norms are rounded to float16 in the file, and by load_for_compute each weight, not only each scale.
    largest = trained.abs().max().item()
    torch.testing.assert_close(plain, trained, rtol=0, atol=5e-3 * largest)
    torch.testing.assert_close(ours, trained, rtol=0, atol=1e-2 * largest)


@pytest.mark.parametrize(("student", "rate"), [("perturbed", 1e30), ("packed", 1e4)])
def test_a_loss_that_is_no_number_stops_and_leaves_nothing(
    home: Path, tmp_path: Path, student: str, rate: float
) -> None:
    with pytest.raises(SlimlineError, match="lower the learning rate") as caught:
        distill(home, student, tmp_path / "out", learning_rate=rate)
    assert "step" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_nan_stops_at_the_first_step(home: Path, tmp_path: Path) -> None:
    perturb(home / "teacher", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = math.inf
    save_file(tensors, file, metadata={"format": "pt"})
    steps = distill_folder(home / "packed", tmp_path / "broken", tmp_path / "out", blocks(4), **RECIPE)
    with pytest.raises(SlimlineError):
        next(steps)
    assert not (tmp_path / "out").exists()


def test_closing_early_writes_nothing(home: Path, tmp_path: Path) -> None:
    steps = distill_folder(home / "packed", home / "teacher", tmp_path / "out", blocks(4), **RECIPE)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_at_the_call(home: Path, tmp_path: Path) -> None:
    def start(student: Path, tokens: torch.Tensor, **changes: Any) -> None:
        distill_folder(student, home / "teacher", tmp_path / "out", tokens, **(RECIPE | changes))

    with pytest.raises(RefusedData, match="no tokens"):
        start(home / "packed", blocks(0))
    with pytest.raises(RefusedData, match="tokenizer"):
        start(home / "packed", blocks(2) + 90)
    with pytest.raises(RefusedRecipe):
        start(home / "packed", blocks(2), learning_rate=0.0)
    with pytest.raises(RefusedRecipe, match="forward_kl"):
        start(home / "packed", blocks(2), divergence="kl")
    with pytest.raises(RefusedModel, match="vocabulary"):
        start(write_llama(tmp_path / "other", vocabulary=50), blocks(2))
    assert not (tmp_path / "out").exists()
