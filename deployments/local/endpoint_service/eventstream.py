"""The frames of ``application/vnd.amazon.eventstream``, and where a model's answer is cut into them.

A frame: length of the whole, length of the headers, CRC-32 of these 8 bytes; the headers; the payload; CRC-32 of
everything before it ("Amazon event stream encoding" in the Smithy specification).

SageMaker's parts do not end where lines of JSON or server-sent events end, and clients that believe otherwise are
wrong on AWS only. So every chunk of the container is cut once more at a place that depends on its bytes alone, and
what follows the cut waits for the next chunk.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator

from deployments.local.endpoint_service.wire import Json

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value
PART = 8192  # bytes of a payload, at most


def part(content: bytes) -> bytes:
    """A PayloadPart event."""
    kind = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    return _frame(kind, content)


def failure(name: str, body: Json) -> bytes:
    """An exception that the model of the operation knows, as the last message of the stream."""
    kind = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return _frame(kind, json.dumps(body).encode())


def _frame(headers: dict[str, str], payload: bytes) -> bytes:
    packed = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    whole = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return whole + struct.pack("!I", zlib.crc32(whole))


def _header(name: bytes, value: bytes) -> bytes:
    return struct.pack("!B", len(name)) + name + struct.pack("!BH", _STRING, len(value)) + value


class Splitter:
    """Cuts chunks into parts. The same chunks are always cut at the same places."""

    def __init__(self) -> None:
        self._tail = b""

    @property
    def waiting(self) -> bool:
        """Whether something is held back for the next chunk."""
        return bool(self._tail)

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """The parts that ``chunk`` completes."""
        place = _place(chunk)
        head, self._tail = (self._tail + chunk[:place], chunk[place:]) if place else (b"", self._tail + chunk)
        if len(self._tail) > PART:  # a chunk of line ends alone
            head, self._tail = self._tail, b""
        yield from _pieces(head)

    def rest(self) -> Iterator[bytes]:
        """What was held back; it may end a line."""
        rest, self._tail = self._tail, b""
        yield from _pieces(rest)


def _place(chunk: bytes) -> int:
    """Where to cut: inside the chunk and not behind a line end; 0 where there is no such place."""
    if len(chunk) < 2:
        return 0
    place = 1 + zlib.crc32(chunk) % (len(chunk) - 1)
    while place and chunk[place - 1] in b"\r\n":
        place -= 1
    return place


def _pieces(content: bytes) -> Iterator[bytes]:
    while len(content) > PART:
        place = _place(content[:PART]) or PART
        yield content[:place]
        content = content[place:]
    if content:
        yield content
