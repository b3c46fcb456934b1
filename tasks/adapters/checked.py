"""The digests of a folder's files, where a file that nobody has touched since it was last read is not read again.

Any write moves a file's change time, which no program can set. So a file with the size, times and inode that it had
when its bytes were read still has those bytes; Git's index and DVC go by the same. A disk that rots in silence moves
nothing: ``rm -r <store>/checked`` has every byte read again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.digests import sha256

# A file that is written twice within a tick of the file system's clock looks the same both times (Git calls such an
# entry "racily clean"), so what is younger than this is read again next time. Clocks tick every 10 ms or more often.
YOUNG_NS = 100_000_000

Traces = dict[str, list[Any]]  # by path in the folder: size, times of modification and change in ns, inode, SHA-256


@dataclass(frozen=True)
class Reading:
    """What a folder holds. ``files``: size and hex SHA-256 of each, by its path in it."""

    files: dict[str, dict[str, Any]]
    traces: Traces


def read_folder(folder: Path, leave_out: str, known: Traces) -> Reading:
    """Every file below ``folder`` but ``leave_out``; those that look as in ``known`` are taken to be as they were."""
    files, traces = dict[str, dict[str, Any]](), Traces()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name == leave_out:
            continue
        status, now = path.stat(), time.time_ns()
        seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        *before, digest = known.get(name, [None])
        if before != seen:
            digest = sha256(path)
        files[name] = {"size": status.st_size, "sha256": digest}
        if max(status.st_mtime_ns, status.st_ctime_ns) < now - YOUNG_NS:
            traces[name] = [*seen, digest]
    return Reading(files, traces)
