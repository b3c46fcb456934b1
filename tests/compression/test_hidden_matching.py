"""Hidden states: which are compared, what the loss is, and that it falls for students of several shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.compression.distillation import distill_folder
from tasks.compression.folder_facts import describe
from tasks.compression.hidden_matching import Taps, hidden_loss, matching_blocks
from tasks.compression.loading import load_for_compute
from tasks.compression.training_loop import StepResult
from tasks.errors import RefusedModel, RefusedRecipe
from tests.compression.small import blocks, perturb, quantize, write_llama

TEACHER = {"hidden_size": 64, "num_hidden_layers": 6}


def shape(count: int, **others: Any) -> dict[str, Any]:
    return TEACHER | {"num_hidden_layers": count} | others


def test_blocks_match_those_they_came_from() -> None:
    assert matching_blocks(shape(6), TEACHER) == (0, 1, 2, 3, 4, 5)
    assert matching_blocks(shape(3, kept_blocks=[0, 1, 5]), TEACHER) == (0, 1, 5)
    assert matching_blocks(shape(3), TEACHER) == (1, 3, 5)
    assert matching_blocks(shape(4), TEACHER) == (0, 2, 3, 5)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (shape(6, hidden_size=32), "widths 32 and 64"),
        (shape(8), "8 blocks"),
        (shape(3, kept_blocks=[0, 1]), "kept_blocks"),
        (shape(3, kept_blocks=[0, 1, 6]), "kept_blocks"),
        (shape(3, kept_blocks=[1, 0, 2]), "kept_blocks"),
    ],
)
def test_what_cannot_be_compared_is_refused(student: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedModel, match=says):
        matching_blocks(student, TEACHER)


def test_loss_is_the_mean_relative_square_error() -> None:
    teacher = [torch.tensor([[3.0, 4.0], [0.0, 100.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    student = [torch.tensor([[3.0, 3.0], [0.0, 90.0]]), teacher[1].clone().requires_grad_()]
    loss = hidden_loss(student, teacher)
    assert loss.item() == pytest.approx(((1 / 25 + 0.01) / 2 + 0) / 2)
    (gradient,) = torch.autograd.grad(loss, [student[1]])
    assert gradient.abs().max() == 0


def test_taps_catch_what_transformers_calls_hidden_states(home: Path) -> None:
    model = load_for_compute(home / "teacher")
    taps = Taps(model, "model.layers", (2, 0))
    with torch.inference_mode():
        wanted = model(input_ids=blocks(2), output_hidden_states=True).hidden_states
    torch.testing.assert_close(taps.take(), [wanted[3], wanted[1]], rtol=0, atol=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of four blocks, and students: noisy, packed, of two of its blocks, with half of its MLP channels."""
    home = tmp_path_factory.mktemp("hidden")
    write_llama(home / "teacher", blocks=4)
    perturb(home / "teacher", home / "noisy")
    quantize(home / "teacher", home / "packed", bits=3)
    write_smaller(home / "teacher", home / "shallow", kept=(0, 3))
    write_smaller(home / "teacher", home / "narrow", channels=64)
    return home


def write_smaller(teacher: Path, folder: Path, *, kept: tuple[int, ...] = (0, 1, 2, 3), channels: int = 128) -> None:
    """A dense folder with fewer blocks, or only the first channels of each MLP, as plain transformers writes it."""
    source = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    config = type(source.config)(
        **source.config.to_dict() | {"num_hidden_layers": len(kept), "intermediate_size": channels}
    )
    weights = {name: value for name, value in source.state_dict().items() if ".layers." not in name}
    for new, old in enumerate(kept):
        for name, value in source.model.layers[old].state_dict().items():
            rows = value[:channels] if "gate_proj" in name or "up_proj" in name else value
            weights[f"model.layers.{new}.{name}"] = rows[:, :channels] if "down_proj" in name else rows
    student = AutoModelForCausalLM.from_config(config)
    student.load_state_dict(weights)
    student.save_pretrained(folder)
    config_file = folder / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"kept_blocks": list(kept)}))
    for file in teacher.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())


def distill(home: Path, student: str, out: Path, **changes: Any) -> list[StepResult]:
    recipe = {
        "epochs": 6, "batch_blocks": 2, "learning_rate": 5e-3, "temperature": 2.0, "hard_share": 0.0, "seed": 0,
    } | changes  # fmt: skip
    return list(distill_folder(home / student, home / "teacher", out, blocks(8), **recipe))


def means(results: list[StepResult], name: str) -> tuple[float, float]:
    values = [getattr(result, name) for result in results]
    return sum(values[:4]) / 4, sum(values[-4:]) / 4


@pytest.mark.parametrize("student", ["noisy", "packed", "shallow"])
def test_hidden_loss_falls_further_when_it_is_asked_for(home: Path, tmp_path: Path, student: str) -> None:
    results = distill(home, student, tmp_path / "with", hidden_weight=2.0)
    assert results[0].loss == pytest.approx(results[0].soft_loss + 2 * results[0].hidden_loss, rel=1e-5)
    first, last = means(results, "hidden_loss")
    assert last < 0.9 * first
    without = distill(home, student, tmp_path / "without", epochs=1)
    assert {result.hidden_loss for result in without} == {0.0}
    assert means(results, "soft_loss")[1] < means(results, "soft_loss")[0]


@pytest.mark.parametrize("student", ["shallow", "narrow"])
def test_smaller_dense_students_learn_and_reload_in_plain_transformers(
    home: Path, tmp_path: Path, student: str
) -> None:
    results = distill(home, student, tmp_path / "out", hard_share=0.1)
    first, last = means(results, "loss")
    assert last < 0.95 * first
    before, after = describe(home / student), describe(tmp_path / "out")
    assert after.parameters == before.parameters < 0.9 * describe(home / "teacher").parameters
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        ours = load_for_compute(tmp_path / "out")(input_ids=blocks(1)).logits
        torch.testing.assert_close(model(input_ids=blocks(1)).logits.float(), ours)


def test_options_that_cannot_be_are_refused_at_the_call(home: Path, tmp_path: Path) -> None:
    def start(student: Path, **changes: Any) -> None:
        recipe: dict[str, Any] = {
            "epochs": 1, "batch_blocks": 1, "learning_rate": 1e-3, "temperature": 1.0, "hard_share": 0.0, "seed": 0,
        }  # fmt: skip
        distill_folder(student, home / "teacher", tmp_path / "out", blocks(2), **recipe | changes)

    with pytest.raises(RefusedRecipe, match="hidden_weight"):
        start(home / "noisy", hidden_weight=-1.0)
    with pytest.raises(RefusedRecipe, match="cached_top_k"):
        start(home / "noisy", cached_top_k=97)
    with pytest.raises(RefusedRecipe, match="one of the two"):
        start(home / "noisy", cached_top_k=4, hidden_weight=1.0)
    with pytest.raises(RefusedModel, match="hidden states"):
        start(write_llama(tmp_path / "deeper", blocks=5), hidden_weight=1.0)
    assert not (tmp_path / "out").exists()
