"""A test image: SageMaker's container contract and Slimline's fault variable, in the standard library."""

from __future__ import annotations

import json
import os
import signal
import sys
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

SHARE = Fraction(os.environ.get("SLIMLINE_FAULT_ERROR_SHARE", "0"))
SAYS = (Path(os.environ["SM_MODEL_DIR"]) / "says.txt").read_text()
LOCK = Lock()
SEEN = [0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/ping" else 404, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with LOCK:
            SEEN[0] += 1
            faulty = int(SEEN[0] * SHARE) > int((SEEN[0] - 1) * SHARE)
        self._answer(500, {"error": "rehearsed"}) if faulty else self._answer(200, [{"generated_text": SAYS}])

    def _answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
