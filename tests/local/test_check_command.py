"""``slimline check`` as a person runs it: a table or JSON, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.stack import ROOT
from tests.serving.tiny_folder import write_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", "check", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"COLUMNS": "500"}, capture_output=True, text=True)


def test_a_folder_that_can_be_served(folder: Path) -> None:
    done = check(str(folder), "--target", "lmi", "--instance-type", "ml.g5.xlarge", "--mode", "CANARY")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dense" in done.stdout and "can be served and released like this" in done.stdout


def test_one_that_cannot_is_a_table_of_reasons_and_exit_code_3(folder: Path) -> None:
    done = check(str(folder), "--target", "neuron", "--instance-type", "ml.inf1.xlarge", "--instances", "1")
    assert done.returncode == 3
    for word in ("refuse", "shifts whole", "without a bake", "take an ml.inf2 instance"):
        assert word in done.stdout
    assert done.stdout.count("shifts whole") == 1


def test_the_same_for_programs(folder: Path) -> None:
    more = ["-p", "target.lmi.max_model_len=4096", "-p", "target.lmi.tensor_parallel=3"]
    done = check(str(folder), "--target", "lmi", "--instance-type", "ml.g5.12xlarge", *more, "--json")
    assert done.returncode == 3
    seen = json.loads(done.stdout)
    assert seen["servable"] is False and seen["plan"]["target"]["lmi"]["max_model_len"] == 4096
    refused = {each["rule"] for each in seen["obstacles"] if each["severity"] == "refuse"}
    assert refused == {"tensor parallel", "context"}
    assert seen["facts"]["layers"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "neither a folder nor --model"),
        (("/nowhere",), "no config.json"),
        ((".", "--target", "gpu"), "own_cpu"),
        ((".", "--mode", "SLOW"), "CANARY"),
    ],
)
def test_what_cannot_be_looked_at_is_named(arguments: tuple[str, ...], said: str) -> None:
    done = check(*arguments)
    assert done.returncode in (1, 2) and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
