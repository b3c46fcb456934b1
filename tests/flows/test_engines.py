"""Another engine through the whole flow: a real environment and child process, with a stand-in for the library in it;
and the real libraries where their environments are built (``slimline engines --build NAME``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.local.stack import ROOT
from tasks.adapters.engine_kinds import ENGINES
from tasks.adapters.engines import find_environment
from tasks.settings import settings
from tests.flows.conftest import Line, values

STAND_IN = """
import dataclasses, json, sys
from pathlib import Path
from flows.compress import compress
from tasks.adapters.engine_kinds import ENGINES
from tasks.recipes import DataChoice, Gate, ModelChoice, PruneRecipe, QuantizeRecipe, Recipe
folder, site, name, recipe = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
ENGINES[name] = dataclasses.replace(
    ENGINES[name], packages=(), constraints=folder / "pins.txt", script=folder / "stand_in.py", check="import json",
    tools=(), variables={"STAND_IN_SITE": site}, progress=r"\\((\\d+)/(\\d+)\\): ",
)
blocks = {name: 16 for name in ("calibration_blocks", "training_blocks", "evaluation_blocks")}
data = DataChoice(source="python-docs", block_tokens=64, **blocks)
gate = Gate(max_perplexity_ratio=100, min_agreement=0.0, max_bytes_ratio=2)
done = compress(ModelChoice(source="tiny"), data, Recipe.model_validate(recipe), gate, "engines")
print("OUTCOME", done.model_dump_json())
"""


def run_stand_in(line: Line, folder: Path, name: str, recipe: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "pins.txt").touch()
    (folder / "stand_in.py").write_text((Path(__file__).parent / "stand_in.py").read_text())
    site = str(Path(np.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", STAND_IN, str(folder), site, name, json.dumps(recipe)],
        env=line.stack.full_environment(), cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.split("OUTCOME ", 1)[1])
    return found


def last_run(line: Line, name: str) -> str:
    runs = line.prefect("flow_runs/filter", flow_runs={"name": {"any_": [name]}}, sort="START_TIME_DESC", limit=1)
    return str(runs[0]["id"])


QUANTIZE = {"name": "by-engine", "order": ["quantize"], "quantize": {"engine": "optimum", "group_size": 32}}


@pytest.fixture(scope="module")
def quantized(line: Line, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("optimum")
    return folder, outcome(run_stand_in(line, folder, "optimum", QUANTIZE))


def test_a_folder_in_gptq_format_goes_through_evaluate_and_register(
    line: Line, quantized: tuple[Path, dict[str, Any]]
) -> None:
    (stage,) = quantized[1]["stages"]
    assert stage["engine"] == "optimum" and stage["versions"] == {"stand-in": "1.0"} and stage["peak_bytes"] > 1e6
    assert stage["model"]["bits"] == 4 and len(stage["layers"]) == 2 * 7
    assert all(0 < layer["error"] < 0.1 and layer["fallback"] is None for layer in stage["layers"])
    stored = line.stack.home / "store" / stage["model"]["uri"]
    assert json.loads((stored / "config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    assert not list(stored.glob("*.npy")) and "private" not in (stored / "config.json").read_text()
    assert json.loads((stored / "manifest.json").read_text())["made_from"]["engine"]["name"] == "optimum"
    assert quantized[1]["scorecard"]["candidate"]["agreement"] > 0.5
    assert quantized[1]["registered"]["version"]


def test_its_page_says_who_did_it(line: Line, quantized: tuple[Path, dict[str, Any]]) -> None:
    flow_run = last_run(line, "compress-tiny-by-engine")
    runs, artifacts = line.task_runs(flow_run), line.artifacts(flow_run)
    assert runs["prepare_engine"]["state_name"] == "Completed"
    assert artifacts["engine-optimum-progress"]["data"] == 100.0
    assert "by optimum: stand-in 1.0" in artifacts["quantize-layers"]["description"]
    assert values(artifacts["quantize-layers"])[0]["bits"] == "4"


def test_pruned_by_an_engine_and_quantized_by_us(line: Line, tmp_path: Path) -> None:
    recipe = {
        "name": "mixed",
        "order": ["prune", "quantize"],
        "prune": {"engine": "llm-compressor", "method": "wanda", "sparsity": 0.5},
    }
    pruned, packed = outcome(run_stand_in(line, tmp_path, "llm-compressor", recipe))["stages"]
    assert (pruned["engine"], packed["engine"]) == ("llm-compressor", "slimline")
    assert 0.49 < pruned["model"]["sparsity"] < 0.52 and packed["model"]["sparsity"] >= pruned["model"]["sparsity"]
    assert all(layer["error"] > 0 for layer in pruned["layers"])


FP8 = ("-p", "recipe.quantize.method=fp8", "-p", "recipe.quantize.bits=8", "-p", "recipe.quantize.group_size=0")


@pytest.mark.parametrize(("name", "more"), [("optimum", ()), ("auto-gptq", ()), ("llm-compressor", FP8)])
def test_a_real_engine_is_released(line: Line, name: str, more: tuple[str, ...]) -> None:
    if find_environment(ENGINES[name], settings().engines) is None:
        pytest.skip(f"the environment of {name} is not built; `slimline engines --build {name}` builds it")
    home = line.stack.home / "engines"
    if not home.is_symlink():
        home.rename(home.with_name("engines-before")) if home.exists() else None
        home.symlink_to(settings().engines)
    released = line.slimline(
        "run", "tiny", "-p", 'recipe.order=["quantize"]', "-p", f"recipe.quantize.engine={name}",
        "-p", f"recipe.name={name}", "-p", f"registered_name=by-{name}", "-p", "plan.endpoint=by-engines", *more,
        "-p", "gate.max_bytes_ratio=0.5",
    )  # fmt: skip
    assert released.code == 0, released.text
    assert "promoted" in released.text or "created" in released.text
    serving = line.serving("by-engines")
    assert f"by-{name}" in serving or "-v1-" in serving
    reply = line.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="by-engines", ContentType="application/json", Body=json.dumps({"inputs": "The import statement"})
    )
    assert json.loads(reply["Body"].read())[0]["generated_text"]
