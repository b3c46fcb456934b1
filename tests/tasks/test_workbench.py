"""Unfinished work: the same stage key goes on with it, another key discards it and says why."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.compression.resuming import Partial
from tasks.contracts import DatasetRef
from tasks.recipes import PruneRecipe
from tasks.workbench import write_model
from tests.compression.killable import work
from tests.compression.small import write_llama
from tests.tasks.test_caching import model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    write_llama(tmp_path / "teacher", blocks=3)
    return tmp_path


def prune(home: Path, key: str, *, stop: int | None = None) -> int:
    """Write a model as the prune task does, leaving by an error after ``stop`` layers; parts that were found done."""

    def make(folder: Path, partial: Partial) -> None:
        for count, _ in enumerate(work("prune", home, folder, partial), start=1):
            if count == stop:
                raise InterruptedError

    made, resumed = write_model({"for": key}, make, stage="prune", key=key, name="m", licence="none")
    assert Store(home / "home" / "store").holds(made.uri, made.digest)
    return resumed


def test_the_same_key_goes_on_and_says_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InterruptedError):
        prune(home, "prune-a", stop=10)
    with caplog.at_level(logging.WARNING):
        assert prune(home, "prune-a") == 2
    assert "prune goes on after 2 parts" in caplog.text
    assert prune(home, "prune-a") == 0


def computed_key(module: str, digests: dict[str, str]) -> str:
    """As the prune task's, with ``module`` for its code."""
    data = DatasetRef(
        uri="datasets/d", digest=digests["data"], name="d", licence="", block_tokens=24, calibration_blocks=16,
        training_blocks=0, evaluation_blocks=1,
    )  # fmt: skip
    recipe = PruneRecipe(sparsity=float(digests["recipe"]))
    inputs: dict[str, Any] = {"model": model(digest=digests["model"]), "data": data, "recipe": recipe}
    context: TaskRunContext = TaskRunContext.model_construct()
    return StageKey(stage="prune", modules=(module,)).compute_key(context, inputs, {})


CHANGES = {
    "model": "inputs.model.digest: 0.1 → 0.7",
    "data": "inputs.data.digest: 0.1 → 0.7",
    "recipe": "inputs.recipe.sparsity: 0.1 → 0.7",
    "code": "code: ",
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_changed_weight_datum_recipe_or_line_discards_it(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.syspath_prepend(str(home))
    code, digests = home / f"changed_{part}.py", dict.fromkeys(CHANGES, "0.1")
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: home / "results"}):
        code.write_text("DAMPING = 0.1\n")
        before = computed_key(code.stem, digests)
        with pytest.raises(InterruptedError):
            prune(home, before, stop=10)
        digests[part] = "0.7"
        code.write_text(f"DAMPING = {digests['code']}  # a comment changes nothing\n")
        after = computed_key(code.stem, digests)
    with caplog.at_level(logging.WARNING):
        assert prune(home, after) == 0
    (line,) = [record.getMessage() for record in caplog.records if "discarded" in record.getMessage()]
    assert f"that this run cannot use: {CHANGES[part]}" in line
    assert ";" not in line
    assert prune(home, before) == 0


def test_other_stages_keep_theirs(home: Path) -> None:
    with pytest.raises(InterruptedError):
        prune(home, "prune-a", stop=10)
    write_model(
        {}, lambda folder, partial: _copy(home, folder), stage="quantize", key="quantize-a", name="m", licence="none"
    )
    assert prune(home, "prune-a") == 2


def _copy(home: Path, folder: Path) -> None:
    shutil.copytree(home / "teacher", folder, dirs_exist_ok=True)
