"""What a document is marked with, for slices of the held-out text: a field of its record, or the folder of its file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = "/"  # instead of a field's name: the first folder below the source
NONE = "(none)"
MOST = 12  # labels that are slices of their own: those with most held-out tokens
_CHARACTERS = 40
_FILE = "labels.json"

Runs = Sequence[tuple[str, int]]  # (label, tokens) of the documents of a split, in their order


def labeller(label: str, place: str) -> Callable[[Any], str]:
    """Tells the label of a record's value. ``place``: the file's path below the source.

    The function raises ValueError, without the record's place, where a record has no such field or something in it that
    is no label; what is empty is "(none)".
    """
    if label == FOLDER:
        folder, below, _ = place.lstrip("/").partition("/")
        return lambda _: _shown(folder) if below else NONE
    return lambda value: _of_field(value, label)


def _of_field(value: Any, name: str) -> str:
    if not isinstance(value, dict):
        raise ValueError(f"no fields, of which {name!r} could be one, in {str(value)[:60]!r}")
    if name not in value:
        raise ValueError(f"no field {name!r} among the fields {', '.join(map(str, value))}")
    found = value[name]
    if isinstance(found, (dict, list)):
        raise ValueError(f"under {name!r} stands {str(found)[:60]}, which is no label")
    return _shown("" if found is None else str(found))


def _shown(label: str) -> str:
    """One short line that no table can be broken by; labels that begin alike beyond it are one."""
    said = " ".join(label.replace("|", "/").split())
    said.encode()  # half of a surrogate pair, which JSON can name, is no character
    return (said if len(said) <= _CHARACTERS else f"{said[: _CHARACTERS - 1]}…") or NONE


def digest_of(labels: Sequence[str]) -> str:
    """SHA-256 over the documents' labels in their order; empty where there are none."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest() if labels else ""


def cut(runs: Runs, tokens: int) -> tuple[tuple[str, int], ...]:
    """The first ``tokens`` of them."""
    found, left = list[tuple[str, int]](), tokens
    for label, count in runs:
        if left > 0:
            found.append((label, min(count, left)))
            left -= count
    return tuple(found)


def write(folder: Path, runs: Runs) -> None:
    """Into the existing ``folder``; nothing where there are none."""
    if runs:
        (folder / _FILE).write_text(json.dumps([list(run) for run in runs], ensure_ascii=False) + "\n", "utf-8")


def read(folder: Path) -> tuple[tuple[str, int], ...]:
    """What ``write`` wrote."""
    file = folder / _FILE
    if not file.is_file():
        return ()
    return tuple((str(label), int(count)) for label, count in json.loads(file.read_text(encoding="utf-8")))


def totals(runs: Runs) -> list[tuple[str, int]]:
    """(label, its tokens), most first."""
    found = Counter[str]()
    for label, count in runs:
        found[label] += count
    return sorted(found.items(), key=lambda each: (-each[1], each[0]))


def masks(runs: Runs, shape: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
    """Name of a slice → which tokens of the blocks (blocks, block_tokens) are of documents with that label.

    Beyond the ``MOST`` labels with most tokens the others are one slice together.
    """
    every = totals(runs)
    kept = [label for label, _ in every[:MOST]]
    rest = len(every) - len(kept)
    names = np.repeat([kept.index(each) if each in kept else MOST for each, _ in runs], [count for _, count in runs])
    found = {label: (names == number).reshape(shape) for number, label in enumerate(kept)}
    return found | ({f"{rest:,} other labels": (names == MOST).reshape(shape)} if rest else {})
