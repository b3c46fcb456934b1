"""A model server for transform jobs: answers every line of a request with one line of JSON.

A line may say what its answer is: ``status N`` (the whole request is answered with it), ``once N`` (only the first
time), ``wait`` (after a minute). Environment beside the echo server's: BATCH_WORD (repeated in every answer) and
BATCH_PARAMETERS (the JSON of /execution-parameters; without it 404).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import ThreadingHTTPServer

from echo_server import Handler

SEEN: set[str] = set()


class Batch(Handler):
    def do_GET(self) -> None:
        said = os.environ.get("BATCH_PARAMETERS")
        if self.path == "/execution-parameters" and said:
            self._answer(200, json.loads(said))
        else:
            super().do_GET()

    def do_POST(self) -> None:
        records = self.rfile.read(int(self.headers["Content-Length"])).decode().split("\n")
        for record in records:
            what, _, number = record.partition(" ")
            if what == "wait":
                time.sleep(60)
            if what == "status" or (what == "once" and record not in SEEN):
                SEEN.add(record)
                self._answer(int(number), {"error": "told to"})
                return
        about = {"together": len(records), "word": os.environ.get("BATCH_WORD"), "batch": os.environ["SAGEMAKER_BATCH"]}
        about |= {"type": self.headers["Content-Type"], "accept": self.headers["Accept"]}
        content = "\n".join(json.dumps({"said": record, **about}) for record in records).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Batch).serve_forever()
