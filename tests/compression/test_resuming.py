"""A stage that is killed and started again ends with the bytes of one that never was."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.compression import training_loop
from tasks.compression.resuming import MANIFEST, Partial
from tests.compression.killable import SERVER, run, work
from tests.compression.small import perturb, quantize, write_llama

MEASURING = ["slim", "prune-sensitivity", "quantize-kept-budget"]
BY_BLOCK = ["prune", "quantize", "quantize-kept", "cast", *MEASURING]
STAGES = [*BY_BLOCK, "distill-noisy", "distill-packed", "finetune-lora", "finetune-full"]
FIRST = {"candidates": 6, "influence": 6, "gradients": 16}
"""What some stages measure before they change anything, the last first, and of how many parts it is."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("killed")
    write_llama(home / "teacher", blocks=6)
    perturb(home / "teacher", home / "noisy")
    quantize(home / "teacher", home / "packed")
    for _ in work("prune", home, home / "pruned", None):
        pass
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


def attempt(home: Path, stage: str, out: Path, partial: Path, *, kill_after: float | None) -> tuple[list[str], float]:
    """Run the stage in a process and kill it so many seconds after its work began; what it said, and its seconds."""
    heard, told = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=run, args=(stage, home, out, partial, told))
    process.start()
    told.close()
    assert heard.recv() == "ready"
    began = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    said = []
    with contextlib.suppress(EOFError):
        while True:
            said.append(heard.recv())
    seconds = time.perf_counter() - began
    process.join(timeout=120)
    assert process.exitcode in ((0,) if kill_after is None else (0, -9))
    shutil.rmtree(out, ignore_errors=True) if kill_after is not None else None
    return said, seconds


def finished(partial: Path) -> tuple[int, ...]:
    """Parts of the stage itself, and of what it measures first, that are kept."""
    manifests = [partial / name / MANIFEST for name in ("", *FIRST)]
    return tuple(json.loads(file.read_text())["done"] if file.exists() else 0 for file in manifests)


def told_of(done: tuple[int, ...]) -> list[str]:
    """What the next process says of those: of the stage itself, or of what is half measured."""
    half = [number for number, parts in zip(done[1:], FIRST.values(), strict=True) if 0 < number < parts]
    return [f"resumed {number}" for number in ([done[0]] if done[0] else half)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_places_it_ends_with_the_same_bytes(
    home: Path, tmp_path: Path, stage: str, pytestconfig: pytest.Config
) -> None:
    _, seconds = attempt(home, stage, tmp_path / "whole", tmp_path / "unharmed", kill_after=None)
    expected = files(tmp_path / "whole")
    draw, done = random.Random(stage), (0, 0, 0, 0)
    places: list[tuple[int, ...]] = []
    while len(places) < pytestconfig.getoption("--kills"):
        said, _ = attempt(home, stage, tmp_path / "out", tmp_path / "partial", kill_after=draw.uniform(0, seconds))
        if said and said[-1] == "finished":
            shutil.rmtree(tmp_path / "partial")
            done = (0, 0, 0, 0)
            continue
        kept = finished(tmp_path / "partial")
        places.append(kept)
        # Everything that was yielded is kept but for the part that was being noted.
        yielded = len(said) - sum(line.startswith("resumed") for line in said)
        assert kept >= done
        assert kept[0] >= yielded // (7 if stage in BY_BLOCK else 1) - 1
        done = kept
    print(f"{stage}: kept after each kill {places}")  # noqa: T201 - for -rP
    assert len(set(places)) >= min(3, len(places) // 5)  # kills that all fall into the beginning show nothing
    said, _ = attempt(home, stage, tmp_path / "out", tmp_path / "partial", kill_after=None)
    assert said[-1] == "finished"
    assert [line for line in said if line.startswith("resumed")] == told_of(done)
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage == "slim" or stage not in MEASURING])
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


def all_of(work: Iterator[Any]) -> None:
    for _ in work:
        pass


@pytest.mark.parametrize("stage", MEASURING)
def test_what_a_stage_measures_first_is_measured_once(
    home: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped right after any part was noted, two processes note as many parts together as one does."""
    write, noted, stop = Partial.write, count(1), 0

    def counted(self: Partial, *arguments: Any) -> None:
        write(self, *arguments)
        if next(noted) == stop:
            raise InterruptedError

    monkeypatch.setattr(Partial, "write", counted)
    all_of(work(stage, home, tmp_path / "whole", Partial(tmp_path / "partial")))
    parts, expected = next(noted) - 1, files(tmp_path / "whole")
    assert parts == {"slim": 6 + 4, "prune-sensitivity": 16 + 6 + 6, "quantize-kept-budget": 16 + 6 + 6}[stage]
    for stop in range(1, parts, 6):
        noted, folder = count(1), tmp_path / f"partial-{stop}"
        with pytest.raises(InterruptedError):
            all_of(work(stage, home, tmp_path / f"out-{stop}", Partial(folder)))
        again, expected_told = Partial(folder), told_of(finished(folder))
        all_of(work(stage, home, tmp_path / f"out-{stop}", again))
        assert next(noted) - 1 == parts
        assert [f"resumed {again.resumed}"] == (expected_told or ["resumed 0"])
        assert files(tmp_path / f"out-{stop}") == expected


@pytest.mark.parametrize("stage", BY_BLOCK)
def test_a_folder_that_was_finished_and_not_committed_costs_no_block(home: Path, tmp_path: Path, stage: str) -> None:
    all_of(work(stage, home, tmp_path / "out", Partial(tmp_path / "partial")))
    expected = files(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")  # as the store does with a draft of a process that is gone
    again = Partial(tmp_path / "partial")
    all_of(work(stage, home, tmp_path / "out", again))
    assert again.resumed == (4 if stage == "slim" else 6)
    assert files(tmp_path / "out") == expected


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
