"""Benchmarks run from their commands and print JSON lines; the peer benchmark's rows are recipes that peers have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from benchmarks.children import in_child
from benchmarks.compression import QUICK_ROWS, ROWS
from benchmarks.foreign_clients import CORE
from tasks.adapters.engine_kinds import ENGINES, check_engine_recipe
from tasks.adapters.engines import read_constraints
from tasks.recipes import PruneRecipe, QuantizeRecipe

ROOT = Path(__file__).parent.parent
# Those of the default run and its methods: the others take up to a minute each in their quick form.
COMMANDS = {
    "compression_stages": [],
    "gate": [],
    "methods": ["--rows", "channels"],
    "memory": [],
    "round_trips": ["--rows", "w8a8"],
    "router": [],
    "search": [],
    "students": [],
    "texts": [],
}
ROW_COUNTS = {
    "compression_stages": 3,
    "gate": 235,
    "methods": 1,
    "round_trips": 1,
    "students": 3,
    "memory": 6,
    "router": 9,
    "search": 6,
    "texts": 4,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_quick_form_prints_json_lines(name: str) -> None:
    if name == "router" and shutil.which("wrk") is None:
        pytest.skip("wrk, which sends the load, is not installed")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", *COMMANDS[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == ROW_COUNTS[name]
    assert all(value is not None for row in rows for value in row.values())


@pytest.mark.parametrize("key", ROWS)
def test_a_row_is_a_recipe_that_its_peers_have(key: str) -> None:
    row = ROWS[key]
    assert row.prune is None or PruneRecipe.model_validate(row.prune)
    assert row.quantize is None or QuantizeRecipe.model_validate(row.quantize)
    assert row.peers
    for peer in row.peers:
        check_engine_recipe(ENGINES[peer], prune=row.prune, quantize=row.quantize)


def test_quick_rows_exist() -> None:
    assert set(QUICK_ROWS) <= set(ROWS)


def test_the_foreign_client_is_pinned_and_has_its_script() -> None:
    assert set(CORE.packages) <= set(read_constraints(CORE.constraints))
    assert CORE.script.is_file()


def test_a_child_that_a_signal_ends_ends_the_benchmark() -> None:
    with pytest.raises(BrokenProcessPool):
        in_child(os.abort)
