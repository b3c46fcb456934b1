"""What a cache key covers, and what it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from tasks import caching
from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.contracts import ModelRef, identity
from tasks.engines import EngineKey
from tasks.recipes import PruneRecipe, QuantizeRecipe, Recipe
from tasks.sourcecode import code_digest


def model(**changes: Any) -> ModelRef:
    fields: dict[str, Any] = {
        "uri": "models/a", "digest": "a", "name": "m", "licence": "", "architecture": "LlamaForCausalLM",
        "parameters": 1, "bytes": 4, "dtype": "float32",
    }  # fmt: skip
    return ModelRef(**(fields | changes))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    (tmp_path / "results").mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path


def key(inputs: dict[str, Any], stage: str = "prune", modules: tuple[str, ...] = ("tasks.recipes",)) -> str:
    context: TaskRunContext = TaskRunContext.model_construct()
    return StageKey(stage=stage, modules=modules).compute_key(context, inputs, {})


def test_place_does_not_enter_identity() -> None:
    assert identity(model()) == identity(model(uri="elsewhere/a", name="another name"))
    assert identity(model()) != identity(model(digest="b"))
    assert identity(Recipe(name="one")) == identity(Recipe(name="two"))


def test_the_key_follows_identity_and_nothing_else(home: Path) -> None:
    one = key({"model": model(), "recipe": PruneRecipe()})
    assert one == key({"recipe": PruneRecipe(), "model": model(uri="elsewhere/a")})
    assert one != key({"model": model(), "recipe": PruneRecipe(sparsity=0.3)})
    assert one != key({"model": model(digest="b"), "recipe": PruneRecipe()})


def test_why_names_the_part_that_changed(home: Path) -> None:
    assert caching.why("prune") == ["prune has not run yet"]
    key({"recipe": PruneRecipe(sparsity=0.2)})
    key({"recipe": PruneRecipe(sparsity=0.2)})
    assert caching.why("prune") == []
    key({"recipe": PruneRecipe(sparsity=0.5)})
    assert caching.why("prune") == ["inputs.recipe.sparsity: 0.2 → 0.5"]


def test_why_passes_over_the_retries_of_one_task_run(home: Path) -> None:
    def asked(run: UUID, sparsity: float) -> None:
        context: TaskRunContext = TaskRunContext.model_construct(task_run=TaskRun.model_construct(id=run))
        StageKey(stage="prune", modules=()).compute_key(context, {"recipe": PruneRecipe(sparsity=sparsity)}, {})

    asked(uuid4(), 0.2)
    tried_twice = uuid4()
    asked(tried_twice, 0.5)
    asked(tried_twice, 0.5)
    assert caching.why("prune") == ["inputs.recipe.sparsity: 0.2 → 0.5"]


def test_a_hit_whose_artifact_was_damaged_is_dropped(home: Path) -> None:
    store = Store(home / "store")
    with store.draft("models") as draft:
        (draft.path / "weights").write_bytes(b"abc")
    ref = model(uri=draft.stored.uri, digest=draft.stored.digest)
    record = home / "results" / key({"model": model()})
    record.write_text(json.dumps({"result": json.dumps({"model": ref.model_dump()})}))
    key({"model": model()})
    assert record.exists(), "an intact artifact keeps its record"
    (store.root / ref.uri / "weights").write_bytes(b"abd")
    key({"model": model()})
    assert not record.exists(), "a damaged artifact must not be served"


def test_the_code_digest_sees_helpers_and_ignores_wording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "somelib"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "stage.py").write_text("from somelib import helper\n\ndef work():\n    return helper.two()\n")
    helper = package / "helper.py"
    helper.write_text("def two():\n    return 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_digest(("somelib.stage",), ("somelib.",))
    helper.write_text('def two():\n    """Two."""\n    # a comment\n    return 2\n')
    assert code_digest(("somelib.stage",), ("somelib.",)) == before
    helper.write_text("def two():\n    return 3\n")
    assert code_digest(("somelib.stage",), ("somelib.",)) != before


def test_an_engine_enters_the_key_with_its_environment_and_script(home: Path) -> None:
    context: TaskRunContext = TaskRunContext.model_construct()
    policy = EngineKey(stage="quantize", modules=("tasks.recipes",))

    def of(engine: str) -> str:
        return policy.compute_key(context, {"recipe": QuantizeRecipe.model_validate({"engine": engine})}, {})

    assert len({of("slimline"), of("optimum"), of("auto-gptq")}) == 3
    changed = "\n".join(caching.why("quantize"))
    assert "engine.environment" in changed and "engine.script" in changed and "engine.output" not in changed


ASK = """
import sys
from tasks.device_kind import device_class
print(device_class(), "torch" in sys.modules)
"""


@pytest.mark.skipif(not version("torch").endswith("+cpu"), reason="a build with CUDA has to be asked each time")
def test_torch_is_asked_once_for_the_kind_of_device(home: Path) -> None:
    def ask(**more: str) -> list[str]:
        here = os.environ | {"SLIMLINE_HOME": str(home)} | more
        return subprocess.run(
            [sys.executable, "-c", ASK], env=here, check=True, capture_output=True, text=True
        ).stdout.split()

    first, second = ask(), ask()
    assert first[0].startswith("cpu-") and second == [first[0], "False"] and first[1] == "True"
    assert ask(ATEN_CPU_CAPABILITY="default") == ["cpu-DEFAULT", "True"], "torch was told to use less"
    (home / "device.json").write_text("{")
    assert ask() == first
