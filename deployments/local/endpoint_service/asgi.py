"""The ASGI types, and reading a bounded body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# An over-long body is read to its end up to here, so that the client is there to read the refusal.
_DRAINED = 64 * 1024 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class TooLarge(Exception):
    """The body is longer than allowed."""


class Gone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(headers: dict[str, str], receive: Receive, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes. Raises ``TooLarge`` or ``Gone``."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > _DRAINED:
            raise TooLarge(size)
        if not message.get("more_body", False):
            break
    if size > limit:
        raise TooLarge(size)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def disconnected(receive: Receive) -> None:
    """Ends when the client has gone away. The request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
