"""Requests all the while, from several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.local.stack import Deck


@dataclass
class Load:
    """HTTP statuses of the answers, and what came instead of an answer."""

    answered: list[int] = field(default_factory=list)
    lost: list[BaseException] = field(default_factory=list)


@contextmanager
def load(deck: Deck, endpoint: str, threads: int = 2) -> Iterator[Load]:
    """Ask the endpoint until the block ends; everything is answered or lost then."""
    done, seen = threading.Event(), Load()

    def ask() -> None:
        client = deck.service.client("sagemaker-runtime")
        while not done.is_set():
            try:
                answer = client.invoke_endpoint(EndpointName=endpoint, Body=b'{"inputs": "x"}')
                answer["Body"].read()
                seen.answered.append(answer["ResponseMetadata"]["HTTPStatusCode"])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a lost request
                seen.lost.append(error)

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in running:
            thread.join()
