"""Prefect's server for the embedded stack: ``python -m deployments.local.prefect_server --port 4310``.

It is the application that ``prefect server start`` serves, with two things more, both for its SQLite.

A transaction that began to read before another one's commit is refused (``SQLITE_BUSY_SNAPSHOT``,
https://www.sqlite.org/rescode.html), the server answers 503, and Prefect's clients, told nothing, wait two seconds,
then four, for a transaction that would succeed at once. With ``Retry-After`` (RFC 9110 10.2.3) they wait as it says.

A refused statement's cursor stays in the error's traceback, a cycle, until the garbage collector finds it. On the event
loop's thread it would then wait for the mutex of a connection that meanwhile may be waiting for the database, which
another request has locked that cannot go on without the loop: everything stands still for SQLite's busy timeout, sixty
seconds. So garbage is collected on a thread of its own, which may wait.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
# A client gives up after its sixth try; a transaction lasts milliseconds.
RETRY_SECONDS = "0.2"
_COLLECT_SECONDS = 1.0
_COLLECT_OBJECTS = 20_000  # that many new ones: some twenty requests


class SayWhenToAskAgain:
    """Puts ``Retry-After`` on answers that say 503 and have none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                MutableHeaders(scope=message).setdefault("Retry-After", RETRY_SECONDS)
            await send(message)

        await self.app(scope, receive, told if scope["type"] == "http" else send)


def collect_beside() -> None:
    """From now on the collector runs on a thread of its own and on no other."""
    gc.collect()
    gc.freeze()
    gc.disable()

    def collect() -> None:
        while True:
            time.sleep(_COLLECT_SECONDS)
            if gc.get_count()[0] > _COLLECT_OBJECTS:
                gc.collect()

    threading.Thread(target=collect, name="garbage-collector", daemon=True).start()


def serve(port: int) -> None:
    """Serve on loopback until a signal ends it, with what ``prefect server start`` takes from Prefect's settings."""
    server = get_current_settings().server
    app = SayWhenToAskAgain(create_app(final=True))
    collect_beside()
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=str(server.logging_level).lower(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)


if __name__ == "__main__":
    main()
