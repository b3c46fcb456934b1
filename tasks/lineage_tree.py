"""Where a thing comes from and where it went, as a tree of plain values: drawn in the terminal, printed as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from pydantic import Field

from tasks.contracts import Value

Kind = Literal["endpoint", "variant", "version", "run", "release", "stage", "model", "data", "digest", "history"]
DELETED = {"version": "deleted"}  # facts of a version that a run, an endpoint or a report names and MLflow has no more
_SHOWN = 12  # characters of a digest: enough to be unique, short enough to read


class Node(Value):
    """``facts`` are what a person wants to know of it, in order; digests are whole."""

    kind: Kind
    title: str
    facts: dict[str, str] = Field(default={})
    url: str = ""
    children: tuple[Node, ...] = ()

    @property
    def deleted(self) -> bool:
        """Whether it is a version that MLflow has no more."""
        return DELETED.items() <= self.facts.items()

    def walk(self) -> Iterator[Node]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, kind: Kind) -> list[Node]:
        return [node for node in self.walk() if node.kind == kind]


def short(digest: str) -> str:
    return digest[:_SHOWN]


def is_digest(text: str) -> bool:
    """Whether ``text`` can be the beginning of a SHA-256: at least eight hex digits."""
    return 8 <= len(text) <= 64 and all(character in "0123456789abcdef" for character in text)


def clock(at: datetime | None) -> str:
    """To the second, in UTC."""
    return "unknown" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def shown(facts: dict[str, str]) -> str:
    """One line: digests are cut."""
    return ", ".join(
        f"{name} {short(value) if is_digest(value) and len(value) == 64 else value}" for name, value in facts.items()
    )
