"""moto behind the service: S3, IAM, STS and whatever else it does, as a child process on its own loopback port.

Requests that are not ours go there unchanged. Bodies stream both ways: a 500 MB upload is never held here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from deployments.local.endpoint_service.asgi import Receive, Scope, Send
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.reaper import ROOT, Reaper, environment, wrapped

_HOP = {
    b"connection",
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"expect",
    b"proxy-connection",
}
_START_SECONDS = 60.0
_CHUNK = 1 << 16


class Moto:
    """The child process and the way to it."""

    def __init__(self, port: int, log: Path, reaper: Reaper, clock: Clock) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self._log = log
        self._reaper = reaper
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._client: aiohttp.ClientSession | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it answers. Raises ``RuntimeError`` naming the log if it does not."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *wrapped(command),
                cwd=ROOT,
                env=environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._reaper.watch(self._process.pid)
        # No pooled connection may outlive the backend's own keep-alive; an upload has no time limit of ours.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        for _ in range(int(_START_SECONDS / 0.1)):
            if not self.alive:
                break
            with contextlib.suppress(aiohttp.ClientError):
                async with self._client.get(f"{self.url}/moto-api/data.json"):
                    return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"moto did not start on port {self._port}; its log is {self._log}")

    async def stop(self) -> None:
        if self._client:
            await self._client.close()
        if self._process and self._process.returncode is None:
            for sign, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, sign)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), seconds)
                    break
            self._reaper.forget(self._process.pid)

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one request. An error of the backend is a 502 with its reason."""
        assert self._client is not None
        url = URL(self.url + _raw_target(scope), encoded=True)
        headers = CIMultiDict((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"] if k not in _HOP)
        has_body = "content-length" in headers or any(k == b"transfer-encoding" for k, _ in scope["headers"])
        data = _body(receive) if has_body and headers.get("content-length") != "0" else None
        async with self._client.request(
            scope["method"],
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            kept = [(k, v) for k, v in answer.raw_headers if k.lower() not in _HOP | {b"date"}]
            kept.append((b"date", self._clock.http_date()))
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _raw_target(scope: Scope) -> str:
    path: str = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query: str = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away during its upload")
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body", False):
            return
