"""The form's training reaches the pass, and what cannot be trained is refused from the headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.compression.resuming import Partial
from tasks.compression.training_loop import StepResult
from tasks.contracts import ModelRef, identity
from tasks.errors import RefusedRecipe
from tasks.retrain_plan import Training
from tasks.stage_child import StageChild
from tasks.train import check_training
from tests.compression.small import blocks, write_llama
from tests.tasks.test_data import home, model, store

__all__ = ["home", "model", "store"]  # fixtures


def test_every_field_of_the_form_is_one_that_the_pass_takes(tmp_path: Path) -> None:
    training = Training(rank=2, epochs=3, batch_blocks=2, max_steps=2, targets=("q_proj",))
    folders = write_llama(tmp_path / "in"), tmp_path / "out"
    arguments, partial = training.model_dump(mode="json"), Partial(tmp_path / "part")
    steps = StageChild(1).run("finetune_folder", folders, blocks(4), arguments, partial, StepResult)
    assert [step.tokens for step in steps] == [2 * blocks(4).shape[1] * step for step in (1, 2)]
    assert list((tmp_path / "out").glob("*.safetensors"))


def test_what_no_layer_can_take_is_refused_before_work(model: ModelRef) -> None:
    check_training.fn(model, Training(rank=2))
    with pytest.raises(RefusedRecipe, match="rank"):
        check_training.fn(model, Training(rank=1024))
    with pytest.raises(RefusedRecipe, match="w_proj"):
        check_training.fn(model, Training(targets=("w_proj",)))


def test_how_often_the_state_is_kept_is_no_part_of_what_is_learnt() -> None:
    assert identity(Training(save_steps=1)) == identity(Training(save_steps=2)) != identity(Training(seed=1))
