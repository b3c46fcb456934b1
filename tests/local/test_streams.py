"""InvokeEndpointWithResponseStream through plain boto3: parts, errors, limits, metrics, clients that go away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EventStreamError
from urllib3.exceptions import ProtocolError

from tests.local.stack import Deck, Service, until

LINE = b'data: {"token": {"text": "t%d \xc3\xbc"}}\n\n'


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("echo") / "log"


@pytest.fixture(scope="module")
def streaming(deck: Deck, log: Path) -> str:
    """An endpoint whose server streams, and writes into ``log`` how far it came."""
    return deck.endpoint(deck.config(ECHO_LOG=str(log)), keep=True)


def asked(deck: Deck, endpoint: str, events: int, more: dict[str, Any] | None = None, **call: Any) -> dict[str, Any]:
    body = json.dumps({"stream": events, **(more or {})}).encode()
    answer: dict[str, Any] = deck.runtime.invoke_endpoint_with_response_stream(
        EndpointName=endpoint, ContentType="application/json", Body=body, **call
    )
    return answer


def parts(answer: dict[str, Any]) -> Iterator[bytes]:
    for event in answer["Body"]:
        yield event["PayloadPart"]["Bytes"]


def test_parts_end_inside_lines_and_always_at_the_same_places(deck: Deck, streaming: str) -> None:
    whole = b"".join(LINE % number for number in range(40))
    answer = asked(deck, streaming, 40, Accept="text/event-stream", CustomAttributes="c7")
    assert answer["ContentType"] == "text/event-stream"
    assert answer["InvokedProductionVariant"] == "main"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "application/vnd.amazon.eventstream"
    first = list(parts(answer))
    assert b"".join(first) == whole
    inside = [part for part in first[:-1] if not part.endswith(b"\n")]
    assert len(inside) > 30  # a pause of the server (a busy machine) may send the end of a line by itself
    places = {len(b"".join(first[: n + 1])) for n, part in enumerate(first) if not part.endswith(b"\n")}
    second = list(parts(asked(deck, streaming, 40)))
    assert places == {len(b"".join(second[: n + 1])) for n, part in enumerate(second) if not part.endswith(b"\n")}
    assert any(_torn(part) for part in first)  # not even at characters


def _torn(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_parts_come_while_the_model_is_still_writing(deck: Deck, streaming: str, log: Path) -> None:
    stream = parts(asked(deck, streaming, 3, {"pause": 1.0}))
    seen = next(stream)
    assert seen != LINE % 0  # a line is never a part of its own
    assert int(log.read_text()) < 3
    assert b"".join([seen, *stream]) == b"".join(LINE % number for number in range(3))


def test_a_break_in_the_middle_is_an_exception_in_the_stream(deck: Deck, streaming: str) -> None:
    stream = parts(asked(deck, streaming, 2, {"then": "break"}))
    seen = b""
    with pytest.raises(EventStreamError, match=r"ModelStreamError.*reset or closed"):
        for part in stream:
            seen += part
    assert seen == LINE % 0 + LINE % 1


def test_errors_before_the_stream_are_ordinary_errors(deck: Deck, faults: Any, streaming: str) -> None:
    faults("errors", endpoint=streaming, status=503, times=1)
    with pytest.raises(ClientError) as failed:
        asked(deck, streaming, 1)
    response: Any = failed.value.response
    assert (response["Error"]["Code"], response["OriginalStatusCode"]) == ("ModelError", 503)
    faults("dead_model", endpoint=streaming, times=1)
    with pytest.raises(ClientError) as failed:
        asked(deck, streaming, 1)
    assert failed.value.response["OriginalStatusCode"] == 0  # type: ignore[typeddict-item]
    with pytest.raises(ClientError, match="Variant x not found"):
        asked(deck, streaming, 1, TargetVariant="x")
    with pytest.raises(ClientError, match="inferenceId"):
        asked(deck, streaming, 1, InferenceId="i" * 65)
    with pytest.raises(ClientError, match="exceeded 6291456 bytes"):
        deck.runtime.invoke_endpoint_with_response_stream(EndpointName=streaming, Body=b"x" * 6_291_457)


def test_latency_and_a_reset_connection_are_rehearsed(deck: Deck, faults: Any, streaming: str) -> None:
    faults("latency", endpoint=streaming, seconds=0.5, times=1)
    began = time.monotonic()
    next(parts(asked(deck, streaming, 1)))
    assert time.monotonic() - began >= 0.5
    faults("connection_reset", endpoint=streaming, times=1)
    with pytest.raises((BotoCoreError, ProtocolError)):
        list(parts(asked(deck, streaming, 1)))


def test_a_client_that_goes_away_ends_the_request_to_the_model(deck: Deck, streaming: str, log: Path) -> None:
    answer = asked(deck, streaming, 2_000, {"pause": 0.02})
    next(parts(answer))
    answer["Body"].close()
    until(log.read_text, lambda text: text == "the client went away", 30)
    worker = deck.service.fleets(streaming)["fleets"][0]["variants"]["main"]["instances"][0]
    assert worker["in_flight"] == 0


def test_streams_have_metrics_of_their_own(deck: Deck, log: Path) -> None:
    endpoint = deck.endpoint(deck.config(ECHO_LOG=str(log)))
    list(parts(asked(deck, endpoint, 3, {"pause": 0.1})))
    with pytest.raises(EventStreamError):
        list(parts(asked(deck, endpoint, 1, {"then": "break"})))
    now = deck.now()
    given = {"Namespace": "AWS/SageMaker", "StartTime": now - timedelta(hours=2), "EndTime": now + timedelta(hours=1)}

    def stat(metric: str, statistic: str) -> float:
        dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "main"}]
        points = deck.cloudwatch.get_metric_statistics(
            MetricName=metric, Dimensions=dimensions, Period=86_400, Statistics=[statistic], **given
        )["Datapoints"]
        return float(sum(point[statistic] for point in points))

    def settled() -> float:
        return stat("MidStreamErrors", "SampleCount")

    until(settled, lambda count: count == 2)
    assert stat("MidStreamErrors", "Sum") == 1
    assert stat("Invocations", "Sum") == 2
    assert stat("Invocation5XXErrors", "Sum") == 0
    assert stat("ModelLatency", "Maximum") >= 200_000  # the whole answer, microseconds
    model, over, whole = (stat(f"FirstChunk{kind}", "Sum") for kind in ("ModelLatency", "OverheadLatency", "Latency"))
    assert 0 < model < whole
    assert model + over == pytest.approx(whole, abs=4)


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    service = Service(tmp_path, "--speed", "60", "--stream-limit", "1", "--model-limit", "0.5")
    try:
        deck = Deck(service, *(service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")))
        endpoint = deck.endpoint(deck.config(), keep=True)
        stream = parts(asked(deck, endpoint, 1, {"then": "hang"}))
        with pytest.raises(EventStreamError, match=r"ModelStreamError.*did not finish"):
            list(stream)
        slow = deck.endpoint(deck.config(ECHO_SECONDS="3"), keep=True)
        for call in (lambda: deck.ask(slow), lambda: asked(deck, slow, 1)):
            with pytest.raises(ClientError, match="timed out while waiting") as late:
                call()
            assert late.value.response["OriginalStatusCode"] == 0  # type: ignore[typeddict-item]
    finally:
        assert service.stop() == 0
