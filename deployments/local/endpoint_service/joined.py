"""uvicorn's HTTP protocol with the head of an answer and the beginning of its body in one write.

uvicorn writes the head when an answer starts and the body after it: two system calls and two packets for every small
answer. ASGI lets a server keep the head until the body begins.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD, _CONTINUE = b"HTTP/1.1 ", b"HTTP/1.1 100 "


class _Joined:
    """A transport that keeps what looks like a head until the next write, or until the answer is complete."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and not data.startswith(_CONTINUE):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class Protocol(HttpToolsProtocol):
    """For uvicorn's ``http`` option."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joined = _Joined(transport)
        super().connection_made(self._joined)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        self._joined.flush()  # an answer without a body, or a last piece that looked like a head
        super().on_response_complete()
