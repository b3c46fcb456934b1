"""A TCP proxy that breaks a connection at a chosen request, as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class FlakyProxy:
    """Forward bytes to ``target``; close the first ``times`` connections whose request contains ``cut``."""

    def __init__(self, target: str, *, cut: str, times: int) -> None:
        parts = urlsplit(target)
        self._target = (str(parts.hostname), int(parts.port or 80))
        self._cut = cut.encode()
        self._left = times
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FlakyProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(self._target)
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        try:
            while data := client.recv(65536):
                if self._left and self._cut in data:
                    self._left -= 1
                    self.cuts += 1
                    break
                server.sendall(data)
        except OSError:
            pass  # the other side has gone: what a proxy does then is to go too
        finally:
            _end(client)
            _end(server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass  # as above
        finally:
            _end(sink)


def _end(connection: socket.socket) -> None:
    """Tell the other side at once: a plain close waits for the thread that reads from the same socket."""
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
