"""No process outlives the service."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.local.stack import Deck, Service, canary, until


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(tmp_path: Path, sign: signal.Signals) -> None:
    service = Service(tmp_path, "--speed", "60")
    deck = Deck(service, *[service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")])
    endpoint = deck.endpoint(deck.config(count=2))
    deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=deck.config(count=2, ECHO_PING="503"))
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert len(children) >= 4  # the watchdog, moto, two model servers, and perhaps two that never get well
    status = service.stop(sign)
    assert status == (0 if sign == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: alive(children), lambda left: not left, 15)


def test_limits_of_time_and_number_go_back(tmp_path: Path) -> None:
    """On a service of its own: AWS's smallest limits are a minute for /ping and ten for the whole deployment."""
    service = Service(tmp_path, "--speed", "1200", "--max-instances", "4", "--startup-limit", "4")
    try:
        deck = Deck(service, *[service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")])
        old = deck.config(count=2)
        endpoint = deck.endpoint(old)
        deployment = canary(50, wait=3600)
        deployment["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"] = 600
        call = {"EndpointName": endpoint, "DeploymentConfig": deployment}
        with pytest.raises(ClientError, match=r"ResourceLimitExceeded.*limit .* is 4 Instances"):
            deck.sagemaker.update_endpoint(EndpointConfigName=deck.config(count=3), **call)
        deck.sagemaker.update_endpoint(EndpointConfigName=deck.config(count=2), **call)
        assert deck.settled(endpoint)["EndpointConfigName"] == old
        assert any("MaximumExecutionTimeout" in event["what"] for event in service.fleets(endpoint)["history"])
        unwell = deck.config(count=1, ECHO_PING="503")
        deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=unwell)
        assert deck.settled(endpoint)["EndpointConfigName"] == old
        assert "did not pass the ping health check" in service.fleets(endpoint)["history"][-1]["what"]
        deck.ask(endpoint)
    finally:
        service.stop()


def test_a_crashed_model_server_is_started_again(service: Service, deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())

    def instance() -> dict:  # type: ignore[type-arg]
        found: dict = service.fleets(endpoint)["fleets"][0]["variants"]["main"]["instances"][0]  # type: ignore[type-arg]
        return found

    psutil.Process(instance()["pid"]).kill()
    until(instance, lambda seen: seen["restarts"] == 1 and seen["healthy"])
    deck.ask(endpoint)


def test_a_taken_port_is_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="did not start"):
        Service(tmp_path, "--port", service.url.rpartition(":")[2])
