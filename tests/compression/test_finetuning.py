"""Fine-tuning: additions that are merged are the model that was trained, and only what was chosen has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.finetuning import Tuning, finetune_folder
from tasks.compression.loading import load_for_compute
from tasks.compression.losses import next_token_loss
from tasks.compression.low_rank import Additions, LowRank
from tasks.compression.training_loop import StepResult
from tasks.errors import RefusedModel, RefusedRecipe, SlimlineError
from tests.compression.families import write_family
from tests.compression.small import LINEARS, blocks, quantize, write_llama

RECIPE: dict[str, Any] = {"epochs": 6, "batch_blocks": 2, "learning_rate": 5e-3, "seed": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("tuned") / "source")


def tune(source: Path, out: Path, **changes: Any) -> list[StepResult]:
    arguments: dict[str, Any] = {"method": "lora", "rank": 4, **RECIPE}
    return list(finetune_folder(source, out, blocks(8), **(arguments | changes)))


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def changed(before: Path, after: Path) -> set[str]:
    old, new = tensors(before), tensors(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns_and_what_is_written_is_a_plain_folder_that_has_learnt(
    source: Path, tmp_path: Path, method: str
) -> None:
    steps = tune(source, tmp_path / "out", method=method, learning_rate=5e-3 if method == "lora" else 2e-3)
    assert len(steps) == 24 and steps[-1].loss < 0.9 * steps[0].loss
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["LlamaForCausalLM"]
    assert (tmp_path / "out" / "tokenizer.json").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # plain transformers, nothing of ours
    with torch.inference_mode():
        now = float(model(input_ids=blocks(8), labels=blocks(8)).loss)
    last_epoch = [step.loss for step in steps[-4:]]
    assert min(last_epoch) < now < max(last_epoch) and now < 0.9 * steps[0].loss


def test_full_moves_everything_and_lora_only_its_targets(source: Path, tmp_path: Path) -> None:
    tune(source, tmp_path / "full", method="full", max_steps=2)
    assert changed(source, tmp_path / "full") == tensors(source).keys()
    tune(source, tmp_path / "lora", targets=("q_proj", "down_proj"), max_steps=2)
    chosen = {f"{name}.weight" for name in LINEARS if name.endswith(("q_proj", "down_proj"))}
    assert changed(source, tmp_path / "lora") == chosen


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "gpt2"])
def test_the_merged_folder_computes_what_the_additions_computed(tmp_path: Path, family: str) -> None:
    """GPT-2 keeps its weights the other way round."""
    folder = write_family(family, tmp_path / "model")
    checkpoint, model = Checkpoint(folder), load_for_compute(folder)
    learner = Additions(model, checkpoint, LowRank(rank=2, alpha=3.0), seed=1)
    tokens = blocks(2, 12, vocabulary=int(checkpoint.config["vocab_size"]))
    before = model(input_ids=tokens).logits
    with torch.no_grad():
        for number, parameter in enumerate(learner.parameters):
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(number))
        trained = model(input_ids=tokens).logits
        plain = load_for_compute(folder)
        for name, parameter in plain.named_parameters():
            parameter.copy_(learner.stored(checkpoint, name))
        merged = plain(input_ids=tokens).logits
    assert not torch.allclose(before, trained, atol=1e-3)
    torch.testing.assert_close(merged, trained, atol=2e-4, rtol=1e-4)


def test_it_begins_at_the_model_itself(source: Path) -> None:
    model, tokens = load_for_compute(source), blocks(2)
    with torch.inference_mode():
        before = model(input_ids=tokens).logits
        Additions(model, Checkpoint(source), LowRank(4, 8.0), seed=0)
        assert torch.equal(model(input_ids=tokens).logits, before)


def test_the_loss_is_torchs_cross_entropy_with_its_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (300,), generator=generator)
    loss = next_token_loss(hidden, head, targets)
    loss.backward()
    ours = hidden.grad, head.grad
    hidden.grad = head.grad = None
    known = torch.nn.functional.cross_entropy(hidden @ head.T, targets)
    known.backward()
    torch.testing.assert_close(loss, known)
    assert ours[0] is not None and ours[1] is not None
    torch.testing.assert_close(ours, (hidden.grad, head.grad))


def test_the_schedule_ends_early_and_still_reaches_its_end() -> None:
    plan = Tuning(items=10, epochs=5, batch=2, learning_rate=1.0, seed=0, warmup=0.5, most_steps=8)
    assert plan.steps == 8 and len(list(plan.batches())) == 8
    rates = [plan.rate(step) for step in range(8)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[-1] < 0.2
    assert Tuning(10, 5, 2, 1.0, 0, 0.1, 0).steps == 25


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"targets": ("query",)}, RefusedRecipe),
        ({"rank": 65}, RefusedRecipe),
        ({"alpha": 0.0}, RefusedRecipe),
        ({"warmup": 1.0}, RefusedRecipe),
        ({"method": "prefix"}, RefusedRecipe),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, Any], error: type[SlimlineError]
) -> None:
    with pytest.raises(error):
        tune(source, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_integers_are_refused(source: Path, tmp_path: Path) -> None:
    packed = quantize(source, tmp_path / "packed")
    with pytest.raises(RefusedModel, match="cannot be fine-tuned"):
        tune(packed, tmp_path / "out")
