"""Work that outlives its process: what is finished, what the next part starts from, and a manifest that comes last.

A part is a decoder block or some training steps. Its files are written first, then ``progress.json`` is replaced in one
step; a process killed in between leaves the manifest of the part before, whose files are all there. Every file that the
manifest names is checked against its SHA-256 before anything is built on it.

Whose work this is, is not asked here: the caller gives each identity a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.compression.streaming import STORED, save_streamed, whole
from tasks.digests import sha256

MANIFEST = "progress.json"


@dataclass(frozen=True)
class Saved:
    """The last part that was finished.

    Attributes:
        done: parts finished, at least 1.
        tensors: what the next part starts from, by name.
        notes: what else the caller noted, JSON.
    """

    done: int
    tensors: dict[str, Tensor]
    notes: dict[str, Any]


class Partial:
    """A folder for the finished parts of one piece of work.

    Args:
        folder: made when it is absent.
        on_resume: told how many parts are finished when there are any.

    Attributes:
        files: where the caller writes files that stay.
        resumed: how many parts were found finished.
    """

    def __init__(self, folder: Path, on_resume: Callable[[int], None] = lambda done: None) -> None:
        self.folder, self.resumed, self._on_resume = folder, 0, on_resume
        self.files = folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self._digests: dict[str, str] = {}

    def read(self) -> Saved | None:
        """What is finished; none when nothing is, or when a file is missing or not as it was written."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:  # half a file, which no rename leaves: a damaged disk
            return None
        state, digests = self.folder / manifest["state"], manifest["files"]
        kept = {self.files / name: digest for name, digest in digests.items()} | {state: manifest["state_sha256"]}
        if not all(path.exists() and sha256(path) == digest for path, digest in kept.items()):
            return None
        self._digests = dict(digests)
        self.found(int(manifest["done"]))
        return Saved(self.resumed, load_file(state), manifest["notes"])

    def first(self, name: str, parts: int) -> Partial:
        """A place inside this one for work that comes first, of ``parts`` parts.

        Until they are all finished, those that are found are said to be found here; after that nothing is said of them.
        """

        def tell(done: int) -> None:
            if done < parts:
                self.found(done)

        return Partial(self.folder / name, tell)

    def found(self, done: int) -> None:
        """Note that ``done`` parts were found finished, here or by a child process that works on this folder."""
        self.resumed = done
        self._on_resume(done)

    def write(self, done: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any], new: Iterable[Path]) -> None:
        """Note that ``done`` parts are finished.

        Args:
            done: parts finished.
            tensors: what the next part starts from.
            notes: JSON.
            new: files that were written into ``files`` since the last call.
        """
        state = self.folder / f"state-{done}.safetensors"
        if all(tensor.dtype in STORED for tensor in tensors.values()):
            save_streamed(state, {name: whole(tensor) for name, tensor in tensors.items()})
        else:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, state)
        self._digests |= {path.name: sha256(path) for path in new}
        manifest = {
            "done": done,
            "state": state.name,
            "state_sha256": sha256(state),
            "files": self._digests,
            "notes": dict(notes),
        }
        fresh = self.folder / f"{MANIFEST}.new"
        fresh.write_text(json.dumps(manifest), encoding="utf-8")
        fresh.replace(self.folder / MANIFEST)
        for old in self.folder.glob("state-*.safetensors"):
            if old != state:
                old.unlink()
