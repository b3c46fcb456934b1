"""A record of what was created outside, written before it is created: what a dead run left can be found and removed.

One JSON object a line; only ever appended to. A line that a crash cut short is skipped when reading.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.adapters.owners import is_alive, is_here, owner

Kind = Literal[
    "model", "endpoint-config", "endpoint", "alarm", "scalable-target", "scaling-alarm", "standing-alarm", "dashboard"
]


@dataclass(frozen=True)
class Entry:
    """A resource that may exist. ``owner`` is the process that asked for it last, ``run`` its flow run."""

    kind: Kind
    name: str
    owner: str
    at: float
    run: str


class Ledger:
    """The lines of one place (one account's region, or one embedded stack) in a file that several places share."""

    def __init__(self, path: Path, place: str, run: str = "") -> None:
        self.path, self.place, self.run = path, place, run

    def creating(self, kind: Kind, name: str) -> None:
        """Call before the request that creates it; on disk when this returns."""
        self._append("creating", kind, name)

    def deleted(self, kind: Kind, name: str) -> None:
        """Call after it is certain that it does not exist."""
        self._append("deleted", kind, name)

    def open_entries(self) -> list[Entry]:
        """What may exist now, oldest first."""
        entries: dict[tuple[str, str], Entry] = {}
        if not self.path.exists():
            return []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["place"] != self.place:
                continue
            key = (record["kind"], record["name"])
            entries.pop(key, None)
            if record["event"] == "creating":
                entries[key] = Entry(
                    record["kind"], record["name"], record["owner"], record["at"], record.get("run", "")
                )
        return list(entries.values())

    def _append(self, event: str, kind: Kind, name: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "event": event, "kind": kind, "name": name, "place": self.place, "owner": owner(),
            "at": round(time.time(), 3), "run": self.run,
        }  # fmt: skip
        # A leading newline parts this line from one that a crash cut short; one write, so that writers do not mix.
        line = ("\n" + json.dumps(record, sort_keys=True)).encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def owned_by_another(entry: Entry, spare_seconds: float = 86_400) -> bool:
    """Whether another live process asked for it: its release may be under way. Of other hosts only the age is known."""
    if entry.owner == owner():
        return False
    if not is_here(entry.owner):
        return time.time() - entry.at < spare_seconds
    return is_alive(entry.owner)
