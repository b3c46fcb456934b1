"""``slimline engines``: what it lists, builds and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli import app
from tasks.adapters.engine_kinds import ENGINES, EVALUATORS


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine without packages, under the name of a real one, in a home of its own."""
    (tmp_path / "pins.txt").write_text("optimum==1.0\ntransformers==2.0\n")
    engine = dataclasses.replace(
        ENGINES["optimum"], packages=("optimum",), constraints=tmp_path / "pins.txt", check="import json", tools=()
    )
    monkeypatch.setitem(ENGINES, "optimum", engine)
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "home"))
    return "optimum"


def listed(*arguments: str) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, ["engines", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return {row["engine"]: row for row in json.loads(done.output[done.output.index("[") :])}


def test_engines_are_listed_and_built(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = listed()
    assert rows.keys() == (ENGINES | EVALUATORS).keys() | {"sagemaker"}
    assert rows["sagemaker"]["version"] == "2.27.0" and rows["sagemaker"]["quantizes"] == "–"
    assert rows[bare]["version"] == "1.0" and "awq" in rows["llm-compressor"]["quantizes"]
    assert rows[bare]["environment"] == "about 1.3 GB"
    monkeypatch.setitem(ENGINES, bare, dataclasses.replace(ENGINES[bare], packages=()))
    assert listed("--build", bare)[bare]["environment"].startswith("built")
    assert listed()[bare]["environment"].startswith("built")


def test_an_unknown_engine_is_refused(bare: str) -> None:
    done = CliRunner().invoke(app, ["engines", "--build", "nothing"])
    assert done.exit_code == 1 and "limit:    llm-compressor, optimum, auto-gptq" in done.output


def test_one_that_cannot_be_built_here_is_refused(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, bare, dataclasses.replace(ENGINES[bare], tools=("absent-compiler",)))
    done = CliRunner().invoke(app, ["engines", "--build", bare])
    assert done.exit_code == 1 and "no absent-compiler" in done.output
