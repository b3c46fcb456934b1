"""A stage that is killed and started again ends with the bytes of one that never was."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tasks.compression import training_loop
from tasks.compression.resuming import MANIFEST, Partial
from tests.compression.killable import work
from tests.compression.small import perturb, quantize, write_llama

STAGES = ["prune", "quantize", "slim", "distill-noisy", "distill-packed", "finetune-lora", "finetune-full"]
BY_BLOCK = ("prune", "quantize", "slim")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("killed")
    write_llama(home / "teacher", blocks=6)
    perturb(home / "teacher", home / "noisy")
    quantize(home / "teacher", home / "packed")
    return home


def whole(home: Path, stage: str, out: Path) -> Path:
    """The stage without interruption, in this process, with as many threads as a killed one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in work(stage, home, out, None):
            pass
    finally:
        torch.set_num_threads(threads)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def attempt(home: Path, stage: str, out: Path, partial: Path, *, kill_after: float | None) -> list[str]:
    """Run the stage in a process and kill it so many seconds after its work began; what it printed."""
    command = [sys.executable, "-m", "tests.compression.killable", stage, str(home), str(out), str(partial)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    said = process.stdout.read().splitlines()
    assert process.wait(timeout=120) in ((0,) if kill_after is None else (0, -9))
    shutil.rmtree(out, ignore_errors=True) if kill_after is not None else None
    return said


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_places_it_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, stage: str, pytestconfig: pytest.Config
) -> None:
    began = time.perf_counter()
    expected = files(whole(home, stage, tmp_path / "whole"))
    seconds = time.perf_counter() - began
    draw, done = random.Random(stage), 0
    for _ in range(pytestconfig.getoption("--kills")):
        said = attempt(home, stage, tmp_path / "out", tmp_path / "partial", kill_after=draw.uniform(0, seconds))
        if said and said[-1] == "finished":
            shutil.rmtree(tmp_path / "partial")
            done = 0
            continue
        manifest = tmp_path / "partial" / MANIFEST
        kept = json.loads(manifest.read_text())["done"] if manifest.exists() else 0
        # Everything that was yielded is kept but for the part that was being noted.
        yielded = len(said) - sum(line.startswith("resumed") for line in said)
        assert kept >= max(done, yielded // (7 if stage in BY_BLOCK else 1) - 1)
        done = kept
    said = attempt(home, stage, tmp_path / "out", tmp_path / "partial", kill_after=None)
    assert said[-1] == "finished"
    assert (f"resumed {done}" in said) == (done > 0)
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize("stage", STAGES)
def test_every_place_to_stop_at_gives_the_same_bytes(
    home: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_SECONDS", 0.0)
    expected = [files(whole(home, stage, tmp_path / "whole"))]
    for stop in (1, 8, 15, 22):
        resumed: list[int] = []
        partial = Partial(tmp_path / f"partial-{stop}", resumed.append)
        running = work(stage, home, tmp_path / f"out-{stop}", partial)
        torch.set_num_threads(1)
        for _ in range(stop):
            next(running)
        running.close()  # type: ignore[attr-defined]
        assert not any((tmp_path / f"out-{stop}").glob("*"))
        for _ in work(stage, home, tmp_path / f"out-{stop}", Partial(partial.folder, resumed.append)):
            pass
        assert resumed == [(stop + 6) // 7 if stage in BY_BLOCK else stop]
        expected.append(files(tmp_path / f"out-{stop}"))
    assert all(each == expected[0] for each in expected)


@pytest.mark.parametrize("harm", ["state", "shard", "manifest"])
def test_damaged_parts_are_not_built_upon(home: Path, tmp_path: Path, harm: str) -> None:
    running = work("prune", home, tmp_path / "out", Partial(tmp_path / "partial"))
    for _ in range(15):
        next(running)
    running.close()  # type: ignore[attr-defined]
    patterns = {"state": "state-*", "shard": "files/model-00002*", "manifest": MANIFEST}
    (victim,) = (tmp_path / "partial").glob(patterns[harm])
    victim.write_bytes(victim.read_bytes()[:-1])
    again = Partial(tmp_path / "partial")
    assert again.read() is None
    for _ in work("prune", home, tmp_path / "out", again):
        pass
    assert again.resumed == 0
    assert files(tmp_path / "out") == files(whole(home, "prune", tmp_path / "whole"))
