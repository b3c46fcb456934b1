"""A model server without a model: SageMaker's container contract in the standard library, with faults on request.

The service runs it for an image through ``--runtime echo=...``. Environment: SM_MODEL_DIR, SAGEMAKER_BIND_TO_PORT,
ECHO_ERROR_SHARE (evenly spread), ECHO_STATUS (the error's status), ECHO_SECONDS (latency), ECHO_PING (the status of
/ping, or ``exit``), ECHO_DEAD (invocations get no answer while /ping answers), ECHO_SAYS (the answer instead of the
prompt).

A request may say what its answer is: ``{"stream": N, "pause": S, "then": "break" | "hang"}`` gives N server-sent events
with S seconds between them and then breaks the connection or waits. A request with a session ID gets the number of
requests that this process has had under it, and ``{"requestType": "CLOSE"}`` closes it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

SHARE = Fraction(os.environ.get("ECHO_ERROR_SHARE", "0"))
STATUS = int(os.environ.get("ECHO_STATUS", "500"))
SECONDS = float(os.environ.get("ECHO_SECONDS", "0"))
DEAD, SAYS = "ECHO_DEAD" in os.environ, os.environ.get("ECHO_SAYS")
PING = os.environ.get("ECHO_PING", "200")
FILES = {path.name: path.read_text() for path in sorted(Path(os.environ["SM_MODEL_DIR"]).glob("*.txt"))}
LOG = Path(os.environ.get("ECHO_LOG", os.devnull))  # how far the last stream came
SESSIONS: dict[str, int] = {}
COUNT = 0
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(int(PING) if self.path == "/ping" else 404, {})

    def do_POST(self) -> None:
        global COUNT
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with LOCK:
            faulty, COUNT = int((COUNT + 1) * SHARE) > int(COUNT * SHARE), COUNT + 1
        time.sleep(SECONDS)
        if DEAD:
            self.close_connection = True
            return
        if faulty:
            self._answer(STATUS, {"error": "rehearsed fault"})
            return
        asked = json.loads(body)
        if "stream" in asked:
            self._stream(asked["stream"], asked.get("pause", 0.0), asked.get("then", ""))
            return
        if session := self.headers["X-Amzn-SageMaker-Session-Id"]:
            self._session(session, asked)
            return
        said = {"generated_text": SAYS or asked["inputs"], "files": FILES, "accept": self.headers["Accept"]}
        self._answer(200, [said])

    def _stream(self, events: int, pause: float, then: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(events):
                line = b'data: {"token": {"text": "t%d \xc3\xbc"}}\n\n' % number
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                LOG.write_text(f"{number + 1}")
                time.sleep(pause)
            if then == "hang":
                time.sleep(600)
            if then != "break":
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            LOG.write_text("the client went away")
        self.close_connection = bool(then)

    def _session(self, session: str, asked: dict[str, str]) -> None:
        headers = {}
        if session == "NEW_SESSION":
            session = f"{os.getpid()}-{len(SESSIONS)}"
            headers = {"X-Amzn-SageMaker-New-Session-Id": f"{session}; Expires={asked['expires']}"}
        if asked.get("requestType") == "CLOSE":
            headers = {"X-Amzn-SageMaker-Closed-Session-Id": session}
        SESSIONS[session] = SESSIONS.get(session, 0) + 1
        self._answer(200, {"pid": os.getpid(), "requests": SESSIONS[session]}, headers)

    def _answer(self, status: int, value: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if attributes := self.headers["X-Amzn-SageMaker-Custom-Attributes"]:
            self.send_header("X-Amzn-SageMaker-Custom-Attributes", attributes)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    if PING == "exit":
        sys.exit(3)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
