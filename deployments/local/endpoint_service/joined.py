"""uvicorn's HTTP protocol with the head of an answer and its body in one write.

uvicorn writes the head when an answer starts and the body after it: two system calls and two packets for every small
answer. ASGI lets a server keep the head until the body begins. An answer that is known whole can also be given whole,
through an extension of the scope (ASGI 3.0, "Extensions"): ``scope["extensions"][WHOLE]["answer"]``.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_HEAD, _CONTINUE = b"HTTP/1.1 ", b"HTTP/1.1 100 "
WHOLE = "slimline.whole_answer"


class _Joined:
    """A transport that keeps what looks like a head until the next write, or until the answer is complete."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and not data.startswith(_CONTINUE):
            self._head = data
            return
        self._transport.write(data)

    def whole(self, answer: bytes) -> None:
        """Write what is nobody's head."""
        self._transport.write(answer)

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Not the cycle itself: scope and cycle would hold each other, and every request would wait for the collector.
        cycle.scope["extensions"] = {WHOLE: {"answer": functools.partial(self._whole, weakref.ref(cycle))}}
        super()._start_asgi_task(cycle, app)

    def _whole(self, request: weakref.ref[RequestResponseCycle], status: int, head: bytes, body: bytes) -> bool:
        """Answer a request at once; False where the client reads too slowly or is gone, then ``send`` is the way.

        ``head``: header lines, each with its line end; Content-Length and Connection are added. They are not checked.
        """
        cycle = request()
        if cycle is None or cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        last = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self._joined.whole(b"%bcontent-length: %d\r\n%b%b%b" % (STATUS_LINE[status], len(body), head, last, body))
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True
