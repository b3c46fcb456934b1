"""The servers beside the endpoint service in ``benchmarks.router``: ``benchmarks.router_servers echo|proxy|split``.

``echo`` is a model server that answers with what it was sent: raw ASGI, so that it costs little beside the router.
``proxy URL [COPY_URL]`` is the least that a router can be: it reads the body, asks the server at URL with aiohttp, and
answers with what came; with COPY_URL it sends each request there too and drops the answer. ``split URL URL`` is that
proxy for two servers, nine requests of ten to the first: a second process that is mostly idle costs whoever wakes it.
All listen on 127.0.0.1, on
the port in SAGEMAKER_BIND_TO_PORT; uvicorn (httptools, uvloop) and aiohttp have the same options as in the service.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvicorn

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PASSED = (b"content-type", b"accept")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The container contract: /ping is 200, /invocations answers with the body."""
    await _answer(send, 200, await _body(receive), b"application/json")


class Proxy:
    """The bare proxy. ``urls``: the server whose answer is given, then those that get a copy, or that share with it."""

    def __init__(self, urls: list[str], split: bool) -> None:
        urls = [f"{url}/invocations" for url in urls]
        self._urls, self._copied = urls, [] if split else urls[1:]
        self._weights = (9, 1) if split else None
        self._client: aiohttp.ClientSession | None = None
        self._copies: set[asyncio.Task[bytes]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
                timeout=aiohttp.ClientTimeout(total=60),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"] if key in _PASSED}
        body = await _body(receive)
        for url in self._copied:
            task = asyncio.create_task(self._ask(url, body, headers))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)
        url = random.choices(self._urls, self._weights)[0] if self._weights else self._urls[0]
        await _answer(send, 200, await self._ask(url, body, headers), b"application/json")

    async def _ask(self, url: str, body: bytes, headers: dict[str, str]) -> bytes:
        assert self._client is not None
        async with self._client.post(url, data=body, headers=headers) as response:
            return await response.read()


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


async def _answer(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    kind, *urls = sys.argv[1:]
    app: Any = echo if kind == "echo" else Proxy(urls, split=kind == "split")
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["SAGEMAKER_BIND_TO_PORT"]),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=app is not echo,  # a server with a clock sends one (RFC 9110, 6.6.1); the service has its own
        proxy_headers=False,
        http="httptools",
        loop="uvloop",
    )


if __name__ == "__main__":
    main()
