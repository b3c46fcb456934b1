"""An object cut into payloads, and answers put together to one object. Files only; nothing is held whole."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast


class TooLong(Exception):
    """A payload is longer than allowed; the text says how long and what the limit is."""


def payloads(path: Path, packed: bool, lines: bool, many: bool, limit: int) -> Iterator[bytes]:
    """The bodies of the requests that an object is sent in.

    Args:
        path: The object's bytes.
        packed: CompressionType Gzip.
        lines: SplitType Line; otherwise the object is one record.
        many: BatchStrategy MultiRecord: as many records in one payload as fit.
        limit: Bytes of a payload; 0 is no limit.

    Raises:
        TooLong: a single record does not fit.
    """
    with ExitStack() as closing:
        raw = closing.enter_context(path.open("rb"))
        content: IO[bytes] = cast(IO[bytes], closing.enter_context(gzip.open(raw))) if packed else raw
        if not lines:
            yield _fits(content.read(limit + 1 if limit else -1), limit)
        elif many:
            yield from _batches(content, limit)
        else:
            yield from (_fits(_bare(line), limit) for line in content)


def _batches(content: IO[bytes], limit: int) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in map(_bare, content):
        _fits(line, limit)
        if batch and limit and size + len(line) > limit:
            yield b"\n".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield b"\n".join(batch)


def _bare(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _fits(record: bytes, limit: int) -> bytes:
    if limit and len(record) > limit:
        raise TooLong(f"a record is longer than MaxPayloadInMB allows ({limit} bytes)")
    return record


def assembled(answer: bytes, lines: bool) -> bytes:
    """An answer as it stands in the output object: AssembleWith Line ends it with a newline."""
    return answer if not lines or answer.endswith(b"\n") else answer + b"\n"


def output_key(source: str, key: str, prefix: str) -> str:
    """Where an object's output lies: its key below the folder of the input's prefix, below the output's."""
    folder = source[: source.rfind("/") + 1]
    return "/".join(part for part in (prefix.strip("/"), key.removeprefix(folder) + ".out") if part)
