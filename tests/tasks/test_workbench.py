"""Unfinished work: the same stage key goes on with it, another key discards it and says why."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.store import Store
from tasks.compression.resuming import Partial
from tasks.workbench import write_model
from tests.compression.killable import work
from tests.compression.small import write_llama


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    records = [
        {"key": f"prune-{name}", "parts": {"inputs": {"recipe": {"sparsity": sparsity}}, "code": "c"}}
        for name, sparsity in (("a", 0.2), ("b", 0.5))
    ]
    (keys / "prune.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_llama(tmp_path / "teacher", blocks=3)
    return tmp_path


def prune(home: Path, key: str, *, stop: int | None = None) -> int:
    """Write a model as the prune task does, leaving by an error after ``stop`` layers; parts that were found done."""

    def make(folder: Path, partial: Partial) -> None:
        for count, _ in enumerate(work("prune", home, folder, partial), start=1):
            if count == stop:
                raise InterruptedError

    model, resumed = write_model({"for": key}, make, stage="prune", key=key, name="m", licence="none")
    assert Store(home / "home" / "store").holds(model.uri, model.digest)
    return resumed


def test_the_same_key_goes_on_and_says_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InterruptedError):
        prune(home, "prune-a", stop=10)
    with caplog.at_level(logging.WARNING):
        assert prune(home, "prune-a") == 2
    assert "prune goes on after 2 parts" in caplog.text
    assert prune(home, "prune-a") == 0


def test_another_key_discards_it_and_says_what_changed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InterruptedError):
        prune(home, "prune-a", stop=10)
    with caplog.at_level(logging.WARNING):
        assert prune(home, "prune-b") == 0
    assert "discarded unfinished work of prune" in caplog.text
    assert "inputs.recipe.sparsity: 0.2 → 0.5" in caplog.text
    assert prune(home, "prune-a") == 0


def test_other_stages_keep_theirs(home: Path) -> None:
    with pytest.raises(InterruptedError):
        prune(home, "prune-a", stop=10)
    write_model(
        {}, lambda folder, partial: _copy(home, folder), stage="quantize", key="quantize-a", name="m", licence="none"
    )
    assert prune(home, "prune-a") == 2


def _copy(home: Path, folder: Path) -> None:
    shutil.copytree(home / "teacher", folder, dirs_exist_ok=True)
