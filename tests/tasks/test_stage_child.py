"""A stage in a child process writes the same bytes, is retried when it is killed for memory, and leaves no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.compression.layerwise import prune_folder
from tasks.compression.resuming import Partial
from tasks.contracts import LayerReport
from tasks.errors import RefusedRecipe, SlimlineError
from tasks.stage_child import MOST_RETRIES, StageChild
from tests.compression.small import LINEARS, blocks, write_llama

ARGUMENTS: dict[str, Any] = {"method": "sparsegpt", "sparsity": 0.5, "pattern": "unstructured"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pruned(child: StageChild, home: Path, **changes: Any) -> list[LayerReport]:
    """What the child tells, with ``home / "out"`` written by it."""
    partial = Partial(home / "partial")
    made = child.run(
        "prune_folder", (home / "model", home / "out"), blocks(6), ARGUMENTS | changes, partial, LayerReport
    )
    return list(made)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_llama(tmp_path / "model")
    return tmp_path


def test_it_writes_what_this_process_writes_and_retries_what_was_killed(home: Path) -> None:
    here = list(prune_folder(home / "model", home / "here", blocks(6), **ARGUMENTS))
    begun: list[int] = []

    def kill_the_first(pid: int) -> None:
        begun.append(pid)
        if len(begun) == 1:
            os.kill(pid, signal.SIGKILL)

    child = StageChild(1, started=kill_the_first)
    told = pruned(child, home)
    assert len(begun) == 2
    assert "killed" in child.notes[0]
    assert "1/2 of the batch" in child.notes[0]
    assert [report.layer for report in told] == list(LINEARS)
    assert [report.error for report in told] == [report.error for report in here]
    assert files(home / "out") == files(home / "here")
    assert child.peak_bytes > 100e6


def test_a_refusal_stays_the_refusal_that_it_was(home: Path) -> None:
    with pytest.raises(RefusedRecipe, match="above 0 and below 1") as refused:
        pruned(StageChild(1), home, sparsity=20.0)
    assert refused.value.observed == "20.0"
    assert not (home / "out").exists()


def test_what_broke_is_one_line_and_its_traceback_is_in_the_log(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SlimlineError, match="the stage's process failed") as failed:
        pruned(StageChild(1), home, colour="red")
    observed = str(failed.value.observed)
    assert observed.startswith("exit status 1; TypeError: ") and "colour" in observed and "\n" not in observed
    assert "Traceback" in caplog.text and "child.py" in caplog.text


def test_it_gives_up_when_memory_runs_out_every_time(home: Path) -> None:
    child = StageChild(1, started=lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(MemoryError, match="1/8 of the batch"):
        pruned(child, home)
    assert len(child.notes) == MOST_RETRIES + 1


PARENT = """
import sys
from pathlib import Path
from tests.tasks.test_stage_child import pruned
from tasks.stage_child import StageChild
pruned(StageChild(1, started=lambda pid: print(pid, flush=True)), Path(sys.argv[1]))
"""


def test_it_ends_when_its_parent_is_killed(home: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, home], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.1)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_leaving_early_ends_the_child(home: Path) -> None:
    begun: list[int] = []
    child = StageChild(1, started=begun.append)
    partial = Partial(home / "partial")
    told = child.run("prune_folder", (home / "model", home / "out"), blocks(6), ARGUMENTS, partial, LayerReport)
    assert next(told).layer == LINEARS[0]
    told.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(begun[0])
