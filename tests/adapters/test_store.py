"""The artifact store: complete or absent, verified, and safe for several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.adapters.store import MANIFEST, Store
from tasks.errors import ArtifactDamaged


def _put(store: Store, content: str, kind: str = "models") -> tuple[str, str]:
    with store.draft(kind) as draft:
        (draft.path / "weights.bin").write_text(content)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "config.json").write_text("{}")
        draft.made_from = {"recipe": content}
    return draft.stored.uri, draft.stored.digest


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_committed_artifact_opens_with_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uri, digest = _put(store, "a")
    folder = store.open(uri, digest)
    assert (folder / "weights.bin").read_text() == "a"
    manifest = store.manifest(uri)
    assert manifest["made_from"] == {"recipe": "a"}
    assert set(manifest["files"]) == {"weights.bin", "sub/config.json"}
    assert uri == f"models/{digest}"


def test_bytes_count_every_file_but_the_manifest(tmp_path: Path) -> None:
    with Store(tmp_path).draft("models") as draft:
        (draft.path / "a").write_bytes(b"12345")
        (draft.path / "b").write_bytes(b"678")
    assert draft.stored.bytes == 8


def test_a_half_written_draft_vanishes(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Store(tmp_path).draft("models") as draft:
        (draft.path / "weights.bin").write_text("half")
        raise KeyError("the stage failed")
    assert _files(tmp_path) == []
    with pytest.raises(RuntimeError):
        _ = draft.stored


def test_an_empty_draft_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="no files"), Store(tmp_path).draft("models"):
        pass
    assert _files(tmp_path) == []


@pytest.mark.parametrize("damage", ["change", "remove", "add", "manifest"])
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    uri, digest = _put(store, "abc")
    folder = store.open(uri, digest)
    if damage == "change":
        (folder / "weights.bin").write_text("abd")
    elif damage == "remove":
        (folder / "sub" / "config.json").unlink()
    elif damage == "add":
        (folder / "extra").write_text("x")
    else:
        (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactDamaged, match="remedy"):
        store.open(uri, digest)
    assert not store.holds(uri, digest)


def test_a_change_that_puts_size_and_time_back_is_seen(tmp_path: Path) -> None:
    uri, digest = _put(Store(tmp_path), "a")
    time.sleep(0.2)
    weights = Store(tmp_path).open(uri, digest) / "weights.bin"
    was = weights.stat()
    weights.write_text("b")
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(ArtifactDamaged, match="has changed"):
        Store(tmp_path).open(uri, digest)


def test_a_change_at_once_after_the_commit_is_seen(tmp_path: Path) -> None:
    """Within one tick of the file system's clock, where every time is the same as before."""
    for _ in range(20):
        uri, digest = _put(Store(tmp_path), "a")
        (tmp_path / uri / "weights.bin").write_text("b")
        assert not Store(tmp_path).holds(uri, digest)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux says how much a process has read")
def test_what_nobody_has_touched_is_read_once(tmp_path: Path) -> None:
    size = 10_000_000
    with Store(tmp_path).draft("models") as draft:
        (draft.path / "weights.bin").write_bytes(b"w" * size)
        time.sleep(0.2)  # older than a tick of any clock
    stored = draft.stored
    assert _read_by(lambda: Store(tmp_path).open(stored.uri, stored.digest)) < size / 10, "the commit has read it"
    shutil.rmtree(tmp_path / "checked")
    assert _read_by(lambda: Store(tmp_path).open(stored.uri, stored.digest)) >= size
    assert _read_by(lambda: Store(tmp_path).open(stored.uri, stored.digest)) < size / 10
    (tmp_path / "checked" / f"{stored.uri}.json").write_text('{"weights')  # a crash has torn it
    assert _read_by(lambda: Store(tmp_path).open(stored.uri, stored.digest)) >= size


def _read_by(work: Callable[[], object]) -> int:
    """Bytes that this process reads meanwhile."""

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    work()
    return read() - before


def test_a_damaged_artifact_is_replaced_by_the_next_commit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uri, digest = _put(store, "abc")
    (store.open(uri, digest) / "weights.bin").write_text("abd")
    assert _put(store, "abc") == (uri, digest)
    assert (store.open(uri, digest) / "weights.bin").read_text() == "abc"


def test_equal_content_is_stored_once_and_unequal_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, again, other = _put(store, "a"), _put(store, "a"), _put(store, "b")
    assert first == again
    assert other != first
    assert len(list((tmp_path / "models").iterdir())) == 2


_COMMIT = """
import sys, time
from pathlib import Path
from tasks.adapters.store import Store
root, go = Path(sys.argv[1]), Path(sys.argv[2])
with Store(root).draft("models") as draft:
    (draft.path / "weights.bin").write_bytes(b"x" * 1_000_000)
    (root / f"ready-{sys.argv[3]}").touch()
    while not go.exists():
        time.sleep(0.002)
print(draft.stored.uri)
"""


def test_processes_that_commit_the_same_content_at_once_agree(tmp_path: Path) -> None:
    root, go = tmp_path / "store", tmp_path / "go"
    root.mkdir()
    command = [sys.executable, "-c", _COMMIT, str(root), str(go)]
    running = [subprocess.Popen([*command, str(index)], stdout=subprocess.PIPE, text=True) for index in range(3)]
    while len(list(root.glob("ready-*"))) < len(running):
        assert all(process.poll() is None for process in running), "a process died before its commit"
    go.touch()
    said = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(said)) == 1
    assert Store(root).open(said[0], said[0].removeprefix("models/")).is_dir()
    assert len(list((root / "models").iterdir())) == 1
    assert list((root / "staging").iterdir()) == []


_DIE = """
import os, signal, sys
from pathlib import Path
from tasks.adapters.store import Store
with Store(Path(sys.argv[1])).draft("models", resume=sys.argv[2] or None) as draft:
    (draft.path / "weights.bin").write_text("half")
    if draft.partial:
        draft.partial.mkdir()
        (draft.partial / "block-1").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed(root: Path, resume: str) -> None:
    assert subprocess.run([sys.executable, "-c", _DIE, str(root), resume]).returncode == -9


def test_the_parts_of_a_killed_process_are_found_by_the_same_name_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _killed(tmp_path, "prune-a")
    with store.draft("models", resume="prune-b") as other:
        assert other.partial is not None
        assert not other.partial.exists()
        (other.path / "weights.bin").write_text("other")
    with pytest.raises(KeyError), store.draft("models", resume="prune-a"):
        raise KeyError("once more")
    with store.draft("models", resume="prune-a") as draft:
        assert draft.partial is not None
        assert (draft.partial / "block-1").read_text() == "done"
        assert list(draft.path.iterdir()) == []
        (draft.path / "weights.bin").write_text("whole")
    assert not draft.partial.exists()
    assert list(store.manifest(draft.stored.uri)["files"]) == ["weights.bin"]


def test_one_process_at_a_time_has_the_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.draft("models", resume="prune-a") as first, store.draft("models", resume="prune-a") as second:
        assert first.partial is not None
        assert second.partial is None
        assert second.path != first.path
        for draft in (first, second):
            (draft.path / "weights.bin").write_text("same")
    assert first.stored == second.stored


def test_what_killed_processes_left_is_swept_and_living_ones_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _killed(tmp_path, "")
    _killed(tmp_path, "prune-a")
    with store.draft("models", resume="prune-b") as living:
        removed = store.sweep(lambda name: name.startswith(("draft-", "prune-")))
        assert len(removed) == 2
        assert removed[1] == "prune-a"
        (living.path / "weights.bin").write_text("x")
    assert [path for path in (tmp_path / "staging").iterdir() if path.is_dir()] == []
