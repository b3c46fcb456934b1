"""Every benchmark runs from its command and prints JSON lines; what they measure is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "compression_stages": [],
    "methods": ["--rows", "wanda 2:4,channels,gptq 4 bit row"],
}


def test_every_benchmark_is_here() -> None:
    assert set(COMMANDS) == {file.stem for file in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_quick_form_prints_json_lines(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", *COMMANDS[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert all(value is not None for row in rows for value in row.values())
