from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.local.stack import Deck, Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The endpoint service at 60 times the wall clock, with the echo image."""
    running = Service(tmp_path_factory.mktemp("endpoint-service"), "--speed", "60")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def deck(service: Service) -> Deck:
    clients = [service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")]
    return Deck(service, *clients)


@pytest.fixture
def faults(deck: Deck) -> Iterator[Any]:
    """Adds a fault to the shared service and gives its id; all are taken back after the test."""
    url = f"{deck.service.url}/_slimline/faults"

    def add(kind: str, **more: Any) -> str:
        answer = requests.post(url, json={"kind": kind, **more}, timeout=10)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    yield add
    requests.delete(url, timeout=10)


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """An endpoint is a set of processes: none stays longer than the test that made it."""
    yield
    if "deck" in request.fixturenames:
        deck: Deck = request.getfixturevalue("deck")
        while deck.made:
            deck.sagemaker.delete_endpoint(EndpointName=deck.made.pop())
