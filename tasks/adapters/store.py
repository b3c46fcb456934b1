"""The artifact store: content-addressed folders that are complete or absent.

A folder is written beside its final place and renamed into it; ``manifest.json`` (files, sizes, SHA-256, what made
it from what) is written last. The address is the digest of the content, so equal content is stored once and a uri
says nothing about the machine. Opening verifies every file: by its bytes, or where they were read before, by the traces
that any change would have left (``checked``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.adapters.checked import read_folder
from tasks.adapters.notes import read_json, write_json
from tasks.errors import ArtifactDamaged

MANIFEST = "manifest.json"
_ANONYMOUS = "draft-"


@dataclass(frozen=True)
class Stored:
    """A committed artifact. ``uri`` is relative to the store; ``bytes`` counts every file but the manifest."""

    uri: str
    digest: str
    bytes: int


class Draft:
    """A folder being written. ``path`` takes the files; ``stored`` is set when the ``with`` block has ended well.

    Attributes:
        path: empty at the beginning.
        partial: a folder beside it for work that another process may go on with, or none.
    """

    def __init__(self, path: Path, partial: Path | None) -> None:
        self.path, self.partial = path, partial
        self.made_from: dict[str, Any] = {}
        self._stored: Stored | None = None

    @property
    def stored(self) -> Stored:
        if self._stored is None:
            raise RuntimeError("the draft is stored when its with-block ends")
        return self._stored


class Store:
    """A folder of artifacts, ``<root>/<kind>/<digest>``. Safe for several processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / "staging"

    @contextmanager
    def draft(self, kind: str, resume: str | None = None) -> Iterator[Draft]:
        """Yield a draft; commit it if the block ends well, remove its files if not.

        Args:
            kind: folder of the store.
            resume: name of work that may be continued: the draft's ``partial`` folder outlives a block that fails and a
                process that is killed, and the next draft of that name finds it. While one process holds the name,
                another's draft has no ``partial``.
        """
        name, lock = self._hold(resume)
        folder = self._staging / name
        try:
            shutil.rmtree(folder / "content", ignore_errors=True)
            (folder / "content").mkdir(parents=True)
            draft = Draft(folder / "content", folder / "partial" if name == resume else None)
            finished = False
            try:
                yield draft
                draft._stored = self._commit(kind, draft)
                finished = True
            finally:
                shutil.rmtree(folder / "content" if name == resume and not finished else folder, ignore_errors=True)
        finally:
            self._release(name, lock)

    def _hold(self, resume: str | None) -> tuple[str, FileLock]:
        """A staging folder's name and its lock; a killed process's lock is free at once."""
        self._staging.mkdir(parents=True, exist_ok=True)
        for name in ([resume] if resume else []) + [f"{_ANONYMOUS}{uuid.uuid4().hex}"]:
            lock = self._lock(name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return name, lock
        raise RuntimeError("a name drawn at random is held by another process")

    def _lock(self, name: str) -> FileLock:
        # Beside the folder: removing the folder must not remove the lock that says who may.
        return FileLock(self._staging / f"{name}.lock", thread_local=False)

    def _release(self, name: str, lock: FileLock) -> None:
        lock.release()
        # A name that can come again keeps its empty file: whoever waits on a removed one would hold nothing.
        if name.startswith(_ANONYMOUS):
            Path(lock.lock_file).unlink(missing_ok=True)

    def sweep(self, wanted: Callable[[str], bool]) -> list[str]:
        """Remove staging folders that no living process holds and whose name is ``wanted``; returns the names."""
        removed = []
        for folder in sorted(self._staging.glob("*/")):
            if not wanted(folder.name):
                continue
            lock = self._lock(folder.name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
            self._release(folder.name, lock)
        return removed

    def _commit(self, kind: str, draft: Draft) -> Stored:
        reading = read_folder(draft.path, MANIFEST, known={})
        files = reading.files
        if not files:
            raise ArtifactDamaged(
                "an artifact has no files",
                observed="0 files",
                limit="at least 1",
                remedy="look at the stage that wrote it",
            )
        digest = _digest(files)
        final = self.root / kind / digest
        manifest = {"digest": digest, "files": files, "made_from": draft.made_from}
        (draft.path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and not self.holds(f"{kind}/{digest}", digest):
            shutil.rmtree(final)
        if not final.exists():
            try:
                draft.path.rename(final)
            except OSError:
                # Another process committed the same content first; anything else is a real error.
                if not (final / MANIFEST).exists():
                    raise
            else:
                write_json(self._traces(f"{kind}/{digest}"), reading.traces)
        return Stored(f"{kind}/{digest}", digest, sum(entry["size"] for entry in files.values()))

    def open(self, uri: str, digest: str) -> Path:
        """The folder behind ``uri``, every file checked.

        Raises:
            ArtifactDamaged: it is missing, incomplete, or its bytes are not those of ``digest``.
        """
        folder = self.root / uri
        remedy = f"remove {folder} and run again: the stage that made it is then recomputed"
        if not (folder / MANIFEST).exists():
            raise ArtifactDamaged(
                f"artifact {uri} is not in the store", observed="missing", limit="present", remedy=remedy
            )
        note = self._traces(uri)
        known = read_json(note) or {}
        reading = read_folder(folder, MANIFEST, known)
        observed = _digest(reading.files)
        if observed != digest:
            raise ArtifactDamaged(f"artifact {uri} has changed", observed=observed, limit=digest, remedy=remedy)
        if reading.traces != known:
            write_json(note, reading.traces)
        return folder

    def holds(self, uri: str, digest: str) -> bool:
        """Whether ``open`` would succeed."""
        try:
            self.open(uri, digest)
        except ArtifactDamaged:
            return False
        return True

    def _traces(self, uri: str) -> Path:
        return self.root / "checked" / f"{uri}.json"

    def manifest(self, uri: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / uri / MANIFEST).read_text())
        return loaded


def _digest(files: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
