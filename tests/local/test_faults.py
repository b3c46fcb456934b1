"""Every rehearsed fault, seen by a client that knows nothing of it."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError, HTTPClientError, ResponseStreamingError
from click.testing import Result
from typer.testing import CliRunner
from urllib3.exceptions import ProtocolError

from deployments.cli import app
from deployments.commands.names import endpoint_names
from tests.local.stack import Deck, canary
from tests.local.test_rollouts import stages, update


def codes(deck: Deck, endpoint: str, times: int) -> list[str]:
    seen = []
    for _ in range(times):
        try:
            deck.ask(endpoint)["Body"].read()
            seen.append("ok")
        except ClientError as error:
            seen.append(f"{error.response['Error']['Code']} {error.response.get('OriginalStatusCode')}")
    return seen


@pytest.fixture(scope="module")
def plain(deck: Deck) -> str:
    return deck.endpoint(deck.config(), keep=True)


def test_a_share_of_errors_is_spread_evenly_and_ends_with_the_fault(deck: Deck, faults: Any, plain: str) -> None:
    name = faults("errors", endpoint=plain, share=0.25, status=503)
    assert codes(deck, plain, 8) == ["ok", "ok", "ok", "ModelError 503"] * 2
    listed = requests.get(f"{deck.service.url}/_slimline/faults", timeout=10).json()["faults"]
    assert [(fault["id"], fault["happened"], fault["considered"]) for fault in listed] == [(name, 2, 8)]
    assert requests.delete(f"{deck.service.url}/_slimline/faults/{name}", timeout=10).status_code == 200
    assert codes(deck, plain, 4) == ["ok"] * 4


def test_a_fault_can_end_by_itself_and_stays_where_it_was_put(deck: Deck, faults: Any, plain: str) -> None:
    faults("errors", endpoint=plain, times=1)
    faults("errors", endpoint="another")
    assert codes(deck, plain, 3) == ["ModelError 500", "ok", "ok"]


def test_added_latency_is_the_models(deck: Deck, faults: Any, plain: str) -> None:
    faults("latency", endpoint=plain, seconds=0.3, times=1)
    began = time.monotonic()
    deck.ask(plain)
    assert time.monotonic() - began >= 0.3
    dims = [{"Name": "EndpointName", "Value": plain}, {"Name": "VariantName", "Value": "main"}]
    found = deck.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="ModelLatency",
        Dimensions=dims,
        StartTime=time.time() - 3600,
        EndTime=time.time() + 90 * 86_400,
        Period=86_400,
        Statistics=["Maximum"],
    )
    assert max(point["Maximum"] for point in found["Datapoints"]) >= 300_000  # microseconds


def test_a_dead_model_behind_an_honest_ping(deck: Deck, faults: Any, plain: str) -> None:
    faults("dead_model", endpoint=plain)
    assert codes(deck, plain, 2) == ["ModelError 0", "ModelError 0"]
    instances = deck.service.fleets(plain)["fleets"][0]["variants"]["main"]["instances"]
    assert all(instance["healthy"] for instance in instances)


def test_a_connection_that_ends_in_the_middle(deck: Deck, faults: Any, plain: str) -> None:
    faults("connection_reset", endpoint=plain, times=1)
    with pytest.raises((HTTPClientError, ResponseStreamingError, ProtocolError, ConnectionError)):
        deck.ask(plain)["Body"].read()
    assert codes(deck, plain, 1) == ["ok"]


def test_throttled_calls(deck: Deck, faults: Any) -> None:
    faults("throttling", operation="ListModels", share=0.5)
    deck.sagemaker.list_models()
    with pytest.raises(ClientError, match=r"ThrottlingException.*Rate exceeded"):
        deck.sagemaker.list_models()
    deck.sagemaker.list_endpoint_configs()


def test_an_endpoint_stuck_in_creating(deck: Deck, faults: Any) -> None:
    config = deck.config()
    name = faults("stuck_creating", config=config)
    deck.sagemaker.create_endpoint(EndpointName="stuck", EndpointConfigName=config)
    time.sleep(1.0)
    assert deck.describe("stuck")["EndpointStatus"] == "Creating"
    requests.delete(f"{deck.service.url}/_slimline/faults/{name}", timeout=10)
    assert deck.settled("stuck")["EndpointStatus"] == "InService"
    deck.made.append("stuck")


def test_a_slow_start(deck: Deck, faults: Any) -> None:
    config = deck.config()
    faults("slow_start", config=config, seconds=1.5)
    began = time.monotonic()
    deck.endpoint(config)
    assert time.monotonic() - began >= 1.5


def test_a_silent_rollback(deck: Deck, faults: Any) -> None:
    old, new = deck.config(), deck.config()
    endpoint = deck.endpoint(old)
    faults("silent_rollback", endpoint=endpoint)
    update(deck, endpoint, new)
    found, _, _ = stages(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", old)
    assert "FailureReason" not in found


def test_a_canary_that_falls_back_to_all_at_once(deck: Deck, faults: Any) -> None:
    endpoint = deck.endpoint(deck.config(count=2))
    new = deck.config(count=2)
    faults("inf1_fallback", endpoint=endpoint)
    update(deck, endpoint, new, canary(50, wait=3000))
    found, seen, _ = stages(deck, endpoint, ask=False)
    assert found["EndpointConfigName"] == new
    assert not any("canary" in message for _, message in seen)


def test_the_clock_jumps_once(deck: Deck, faults: Any) -> None:
    def now() -> float:
        headers = requests.get(f"{deck.service.url}/_slimline/info", timeout=10).headers
        return parsedate_to_datetime(headers["date"]).timestamp()

    before = now()
    faults("clock_jump", seconds=7200)
    assert 7200 <= now() - before < 7200 + 3600


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"kind": "fire"}, "kind must be one of errors"),
        ({"kind": "errors", "share": 1.5}, "share must be a number above 0 and at most 1"),
        ({"kind": "errors", "seconds": 1}, "errors has no seconds"),
        ({"kind": "latency"}, "latency needs seconds"),
        ({"kind": "refusal"}, "refusal needs code"),
        ({"kind": "errors", "status": 200}, "status must be 400 to 599"),
        ({"kind": "throttling", "operation": 3}, "operation must be a name"),
        ([], "must be a JSON object"),
    ],
)
def test_what_is_no_fault_is_refused(deck: Deck, request_: Any, reason: str) -> None:
    answer = requests.post(f"{deck.service.url}/_slimline/faults", json=request_, timeout=10)
    assert answer.status_code == 400 and reason in answer.text


def test_the_page_says_that_faults_stand(deck: Deck, faults: Any) -> None:
    page = f"{deck.service.url}/_slimline/"
    assert "Rehearsed faults" not in requests.get(page, timeout=10).text
    faults("errors", endpoint="nobody")
    assert "Rehearsed faults" in requests.get(page, timeout=10).text


def test_the_program_adds_lists_and_takes_back(deck: Deck, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(deck.service.url.rpartition(":")[2])
    base = ["--base-port", str(port - 2)]  # the third of the stack's four

    def slimline(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["fault", *arguments, *base])

    added = slimline("add", "errors", "--endpoint", plain, "--share", "0.5")
    assert added.exit_code == 0, added.output
    assert codes(deck, plain, 2) == ["ok", "ModelError 500"]
    assert "1 of 2" in slimline("list").output
    assert slimline("clear").exit_code == 0
    assert "no fault stands" in slimline("list").output
    refused = slimline("add", "latency")
    assert refused.exit_code == 1 and "latency needs seconds" in refused.output
    assert slimline("clear", "fault-77").exit_code == 1
    assert json.loads(slimline("list", "--json").stdout) == []
    monkeypatch.setenv("SLIMLINE_BASE_PORT", str(port - 2))
    assert (plain, "InService") in endpoint_names(plain[:3]), "what a shell completes"
