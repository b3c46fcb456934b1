"""``python -m deployments.local.endpoint_service --port 5601 --data DIR --speed 10``"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from deployments.local.endpoint_service.inference import MODEL_SECONDS
from deployments.local.endpoint_service.service import Options, serve
from deployments.local.endpoint_service.streaming import STREAM_SECONDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM, 2 for a wrong option, 1 if it could not start."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not 0.1 <= given.speed <= 3600:
        parser.error("--speed must lie between 0.1 and 3600")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    options = Options(
        data=given.data.expanduser().resolve(),
        port=given.port,
        speed=given.speed,
        s3_port=given.s3_port,
        region=given.region,
        startup_limit=given.startup_limit,
        max_instances=given.max_instances,
        model_limit=given.model_limit,
        stream_limit=given.stream_limit,
        runtimes=tuple(given.runtime),
    )
    try:
        options.data.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", options.port), backlog=1024) as listener:
            # Head and body of an answer are two writes: Nagle's algorithm would hold the second back for 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(options, listener))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"slimline-endpoint-service could not run on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="endpoint_service", description="A SageMaker-compatible service on loopback")
    parser.add_argument("--port", type=int, default=5601, help="port on 127.0.0.1; 0 takes any free one")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="model files and logs go here")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster than the wall the clock runs")
    parser.add_argument("--s3-port", type=int, default=0, help="port of moto behind it; 0 takes any free one")
    parser.add_argument("--region", default="us-east-1", help="the region in ARNs")
    parser.add_argument(
        "--startup-limit",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="wall time a model server may take to load",
    )
    parser.add_argument(
        "--max-instances", type=int, default=32, help="instances (processes) of all endpoints together, at most"
    )
    parser.add_argument(
        "--model-limit", type=float, default=MODEL_SECONDS, metavar="SECONDS", help="wall time of one answer, as on AWS"
    )
    parser.add_argument(
        "--stream-limit", type=float, default=STREAM_SECONDS, metavar="SECONDS", help="wall time of one streamed answer"
    )
    parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="run COMMAND for the image NAME (repeatable)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
