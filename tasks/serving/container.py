"""Slimline's inference container: the program that SageMaker starts with ``serve``.

Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html. ``GET /ping`` answers
200 only after a real token has been generated, and 503 when the model is loading, broken or stuck. ``POST
/invocations`` takes the JSON of the Hugging Face container, for generating text or for answering questions, as the
model's head has it. With ``"stream": true`` a text is told token by token, as server-sent events. One thread owns the
model, so ``/ping`` answers while it generates. SIGTERM drains and exits.

Environment: SM_MODEL_DIR, SAGEMAKER_BIND_TO_PORT, SLIMLINE_BIND_HOST, SLIMLINE_THREADS, SLIMLINE_MAX_NEW_TOKENS,
SLIMLINE_MAX_WAITING, SLIMLINE_FAULT_ERROR_SHARE (rehearsals only: that share of the answers is a 500).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

import uvicorn

from tasks.serving.options import Options
from tasks.serving.payload import MAX_BODY, BadRequest, Request, parse, too_large
from tasks.serving.reader_payload import QuestionRequest, parse_questions, reads_questions
from tasks.serving.token_stream import HEADERS, Events, error_event
from tasks.serving.worker import Busy, Failed, Worker

log = logging.getLogger("slimline.container")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

DRAIN_BYTES = 4 * MAX_BODY
DRAIN_SECONDS = 25  # SageMaker kills 30 s after SIGTERM


class Container:
    """The ASGI application."""

    def __init__(self, worker: Worker, options: Options) -> None:
        self.worker = worker
        self.options = options
        self._invocations = 0
        self._reads_questions = reads_questions(options.model_dir)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn runs with lifespan off; websockets are not spoken
        method, path = scope["method"], scope["path"]
        if path == "/ping" and method in ("GET", "HEAD"):
            reason = self.worker.unwell()
            body = {"status": reason or "ready", "generating": self.worker.generating}
            await _answer(send, 503 if reason else 200, body)
        elif path == "/invocations" and method == "POST":
            await self._invoke(scope, receive, send)
        elif path in ("/ping", "/invocations"):
            await _answer(send, 405, _error("method", method, "GET /ping, POST /invocations"))
        else:
            await _answer(send, 404, _error("path", path, "/ping, /invocations"))

    async def _invoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            body = await _body(headers.get("content-length"), receive)
            if self._faulty():
                await _answer(send, 500, {"error": "rehearsed fault: SLIMLINE_FAULT_ERROR_SHARE is set"})
                return
            request = self._parse(body, headers.get("content-type", ""))
            if isinstance(request, Request) and request.stream:
                await self._stream(request, receive, send)
                return
            answers = await self.worker.ask(request, gone=_disconnected(receive))
        except (BadRequest, Busy, Failed) as error:
            await _answer(send, *self._refusal(error))
            return
        if isinstance(request, QuestionRequest):
            await _answer(send, 200, answers[0] if request.single else answers)
        else:
            await _answer(send, 200, [{"generated_text": text} for text in answers])

    async def _stream(self, request: Request, receive: Receive, send: Send) -> None:
        """Tell the answer as it grows. Raises what ``Worker.ask`` raises where nothing has been told yet."""
        events, told = Events(request), asyncio.Queue[bytes | None]()
        asking = asyncio.ensure_future(
            self.worker.ask(
                request, _disconnected(receive), lambda token, text: told.put_nowait(events.token(token, text))
            )
        )
        asking.add_done_callback(lambda _: told.put_nowait(None))
        event = await told.get()
        if event is None:
            asking.result()  # no token, so an error: an ordinary answer can still say so
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        while event is not None:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            event = await told.get()
        try:
            last = events.end(asking.result()[0])
        except (BadRequest, Busy, Failed) as error:
            last = error_event(str(error))
        await send({"type": "http.response.body", "body": last})

    def _refusal(self, error: BadRequest | Busy | Failed) -> tuple[int, object]:
        """Status and body of an answer that there is none."""
        if isinstance(error, BadRequest):
            return error.status, error.body()
        if isinstance(error, Busy):
            return 503, _error("queue", str(error), f"{self.options.max_waiting} waiting requests")
        return 500, {"error": str(error)}

    def _parse(self, body: bytes, content_type: str) -> Request | QuestionRequest:
        if self._reads_questions:
            return parse_questions(body, content_type)
        return parse(body, content_type, self.options.max_new_tokens)

    def _faulty(self) -> bool:
        """Errors spread evenly: of the first n requests exactly floor(n · share) fail."""
        share, n = self.options.fault_share, self._invocations
        self._invocations += 1
        return int((n + 1) * share) > int(n * share)


async def _body(length: str | None, receive: Receive) -> bytes:
    body = bytearray()
    seen = 0
    if length is not None and length.isdigit() and int(length) > DRAIN_BYTES:
        raise too_large(int(length))
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("body", "the connection closed early", "a whole body")
        part = message.get("body", b"")
        seen += len(part)
        if seen > DRAIN_BYTES:
            raise too_large(seen)
        # A body somewhat too large is read to its end and dropped: most clients read no answer before that.
        if seen <= MAX_BODY:
            body += part
        else:
            body.clear()
        if not message.get("more_body", False):
            if seen > MAX_BODY:
                raise too_large(seen)
            return bytes(body)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(field: str, observed: str, limit: str) -> dict[str, object]:
    return {"error": {"field": field, "observed": observed, "limit": limit}}


async def _answer(send: Send, status: int, document: object) -> None:
    body = json.dumps(document, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(options: Options) -> int:
    """Run until SIGTERM. Returns the exit status: 0 after a drain, 1 when the model did not load."""
    if options.fault_share:
        log.warning("REHEARSAL FAULT ON: %s of /invocations will answer 500", float(options.fault_share))
    config: dict[str, Any] = {"lifespan": "off", "log_level": "warning", "access_log": False, "server_header": False}
    worker = Worker(options.model_dir, options.threads, options.max_waiting)
    server = uvicorn.Server(
        uvicorn.Config(
            Container(worker, options), host=options.host, port=options.port,
            timeout_graceful_shutdown=DRAIN_SECONDS, **config,
        )
    )  # fmt: skip
    # uvicorn drains on SIGTERM, then hands the signal to the handler it found: leave with 0, not by the signal.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)

    async def run() -> None:
        worker.start(failed=lambda: setattr(server, "should_exit", True))
        log.info("serving %s on %s:%d", options.model_dir, options.host, options.port)
        await server.serve()

    try:
        asyncio.run(run())
    except SystemExit as leaving:
        if leaving.code not in (0, None):
            raise
    return 1 if worker.load_error else 0


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    if arguments != ["serve"]:
        log.error("observed arguments %s, limit: serve", arguments)
        return 2
    try:
        options = Options.read(os.environ)
    except ValueError as error:
        log.error("%s", error)
        return 2
    status = serve(options)
    # A generation that outlived the drain must not hold the process: the thread is a daemon, torch may still be in it.
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
