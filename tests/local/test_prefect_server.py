"""The embedded Prefect server says when a busy moment is over (``deployments/local/prefect_server.py``)."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.local.prefect_server import RETRY_SECONDS, SayWhenToAskAgain


async def _answer(request: Request) -> Response:
    own = request.query_params.get("own")
    return Response(status_code=int(request.path_params["status"]), headers={} if own is None else {"Retry-After": own})


@pytest.mark.parametrize(
    ("path", "said"), [("/503", RETRY_SECONDS), ("/503?own=7", "7"), ("/200", None), ("/500", None), ("/404", None)]
)
def test_an_answer_of_503_says_when_to_ask_again_and_no_other_does(path: str, said: str | None) -> None:
    app = SayWhenToAskAgain(Starlette(routes=[Route("/{status:int}", _answer)]))

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://prefect") as client:
            return await client.get(path)

    assert asyncio.run(asked()).headers.get("Retry-After") == said


# Of its own process: it changes what the collector does.
CYCLES = """
import threading, time
from deployments.local import prefect_server

class Cycle:
    def __init__(self): self.own = self
    def __del__(self): seen.add(threading.current_thread().name)

seen = set()
prefect_server.collect_beside()
Cycle()
kept = [[] for _ in range(2 * prefect_server._COLLECT_OBJECTS)]
until = time.monotonic() + 30
while not seen and time.monotonic() < until:
    kept.append([])
    time.sleep(0.01)
print(*seen)
"""


def test_garbage_is_never_collected_on_the_thread_that_serves() -> None:
    """There it would wait for a database that only this thread can free."""
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["garbage-collector"]
