"""InvokeEndpointAsync through plain boto3: results and failures in S3, the queue's limits, metrics and memory."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.stack import Deck, Service, canary, until, variant

PATHS = {"S3OutputPath": "s3://async/out", "S3FailurePath": "s3://async/failed"}


def queueing(deck: Deck, concurrent: int = 4, count: int = 1, **environment: str) -> str:
    """An asynchronous endpoint; its results go to the bucket ``async``."""
    deck.service.client("s3").create_bucket(Bucket="async")
    name = f"async-{deck.model()}"
    deck.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant("main", deck.model(**environment), count)],
        AsyncInferenceConfig={
            "OutputConfig": PATHS,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": concurrent},
        },
    )
    return deck.endpoint(name)


def put(deck: Deck, text: str) -> str:
    deck.service.client("s3").put_object(Bucket="async", Key=f"in/{text}", Body=b'{"inputs": "%s"}' % text.encode())
    return f"s3://async/in/{text}"


def send(deck: Deck, endpoint: str, text: str = "", **more: Any) -> dict[str, Any]:
    given = {"InputLocation": put(deck, text)} if text else {}
    answer: dict[str, Any] = deck.runtime.invoke_endpoint_async(
        EndpointName=endpoint, ContentType="application/json", **given, **more
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    return answer


def read(deck: Deck, location: str) -> bytes:
    """The object, once it is there."""
    bucket, _, key = location.removeprefix("s3://").partition("/")
    s3 = deck.service.client("s3")

    def look() -> bytes | None:
        try:
            found: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None
        return found

    content: bytes = until(look, lambda seen: seen is not None)
    return content


def stat(deck: Deck, endpoint: str, metric: str, statistic: str, **dimensions: str) -> float | None:
    now = deck.now()
    given = {"EndpointName": endpoint} | dimensions
    points = deck.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in given.items()],
        StartTime=now - timedelta(hours=12),
        EndTime=now + timedelta(hours=1),
        Period=86_400,
        Statistics=[statistic],
    )["Datapoints"]
    return points[0][statistic] if points else None


def test_a_result_comes_to_the_place_that_was_named_at_once(deck: Deck) -> None:
    endpoint = queueing(deck)
    answer = send(deck, endpoint, "one", InferenceId="inference-1", Accept="application/json")
    assert answer["InferenceId"] == "inference-1"
    assert answer["OutputLocation"] == "s3://async/out/inference-1.out"
    assert answer["FailureLocation"] == "s3://async/failed/inference-1-error.out"
    said = json.loads(read(deck, answer["OutputLocation"]))
    assert said == [{"generated_text": "one", "files": {}, "accept": "application/json"}]
    inline = send(deck, endpoint, Body=b'{"inputs": "inline"}', Filename="two.json", S3OutputPathExtension="a/b")
    assert inline["OutputLocation"] == "s3://async/out/a/b/two.json"
    assert json.loads(read(deck, inline["OutputLocation"]))[0]["generated_text"] == "inline"
    shown = deck.describe(endpoint)["AsyncInferenceConfig"]
    assert shown["OutputConfig"] == PATHS
    until(lambda: stat(deck, endpoint, "InvocationsProcessed", "Sum", VariantName="main"), lambda seen: seen == 2)
    assert stat(deck, endpoint, "Invocation5XXErrors", "SampleCount", VariantName="main") == 2
    assert stat(deck, endpoint, "Invocations", "Sum", VariantName="main") is None  # as on AWS
    for metric in ("RequestDownloadLatency", "ResponseUploadLatency", "TotalProcessingTime", "ModelLatency"):
        assert (stat(deck, endpoint, metric, "Maximum", VariantName="main") or 0) > 0


def test_why_there_is_no_result_is_written_too(deck: Deck) -> None:
    endpoint = queueing(deck, ECHO_ERROR_SHARE="1", ECHO_STATUS="503")
    assert b"Received server error (503) from primary" in read(deck, send(deck, endpoint, "bad")["FailureLocation"])
    absent = send(deck, endpoint, InputLocation="s3://async/in/absent")
    assert b"Failed to download the request" in read(deck, absent["FailureLocation"])
    until(lambda: stat(deck, endpoint, "InvocationFailures", "Sum", VariantName="main"), lambda seen: seen == 2)
    assert stat(deck, endpoint, "Invocation5XXErrors", "Sum", VariantName="main") == 1
    assert stat(deck, endpoint, "RequestDownloadFailures", "Sum", VariantName="main") == 1
    listed = deck.service.client("s3").list_objects_v2(Bucket="async", Prefix="out/bad")
    assert listed["KeyCount"] == 0


def test_an_instance_gets_no_more_than_it_may_have_and_the_rest_waits(deck: Deck) -> None:
    endpoint = queueing(deck, concurrent=2, ECHO_SECONDS="0.7")
    answers = [send(deck, endpoint, f"queued-{number}") for number in range(5)]
    most = 0

    def all_there() -> bool:
        nonlocal most
        worker = deck.service.fleets(endpoint)["fleets"][0]["variants"]["main"]["instances"][0]
        most = max(most, worker["in_flight"])
        return stat(deck, endpoint, "InvocationsProcessed", "Sum", VariantName="main") == 5

    until(all_there, bool)
    assert most == 2
    assert all(read(deck, answer["OutputLocation"]) for answer in answers)
    assert (stat(deck, endpoint, "ApproximateBacklogSize", "Maximum") or 0) >= 3
    assert (stat(deck, endpoint, "ApproximateBacklogSizePerInstance", "Maximum") or 0) >= 3
    assert stat(deck, endpoint, "HasBacklogWithoutCapacity", "Maximum") == 0
    assert (stat(deck, endpoint, "TimeInBacklog", "Maximum", VariantName="main") or 0) > 1e6


def test_a_deployment_loses_no_request(deck: Deck) -> None:
    endpoint = queueing(deck, concurrent=2, count=2, ECHO_SECONDS="0.1")
    old = deck.describe(endpoint)["EndpointConfigName"]
    seen = deck.sagemaker.describe_endpoint_config(EndpointConfigName=old)
    config = {"ProductionVariants": seen["ProductionVariants"], "AsyncInferenceConfig": seen["AsyncInferenceConfig"]}
    deck.sagemaker.create_endpoint_config(EndpointConfigName=f"{old}-new", **config)
    deck.sagemaker.update_endpoint(
        EndpointName=endpoint, EndpointConfigName=f"{old}-new", DeploymentConfig=canary(50, wait=30, end=0)
    )
    answers = []
    while deck.describe(endpoint)["EndpointStatus"] == "Updating":
        if len(answers) < 40:
            answers.append(send(deck, endpoint, Body=b'{"inputs": "moved"}'))
    assert deck.describe(endpoint)["EndpointConfigName"] == f"{old}-new"
    assert len(answers) >= 10
    assert all(json.loads(read(deck, answer["OutputLocation"]))[0]["generated_text"] == "moved" for answer in answers)
    assert stat(deck, endpoint, "InvocationFailures", "Sum", VariantName="main") is None


def test_a_request_may_wait_and_take_only_so_long(deck: Deck) -> None:
    endpoint = queueing(deck, concurrent=1, ECHO_SECONDS="3")
    slow = send(deck, endpoint, "slow", InvocationTimeoutSeconds=2)
    late = send(deck, endpoint, "late", RequestTTLSeconds=60)  # one second of wall time
    assert b"waited longer than its 60 seconds" in read(deck, late["FailureLocation"])
    assert b"timed out while waiting" in read(deck, slow["FailureLocation"])
    assert stat(deck, endpoint, "ExpiredRequests", "Sum", VariantName="main") == 1


def test_each_kind_of_endpoint_takes_its_own_requests(deck: Deck) -> None:
    endpoint, plain = queueing(deck), deck.endpoint(deck.config())
    calls = [
        (lambda: deck.ask(endpoint), "asynchronous: it takes InvokeEndpointAsync only"),
        (lambda: send(deck, plain, "x"), "real-time: it takes InvokeEndpoint only"),
        (lambda: send(deck, endpoint), "Exactly one of Body and InputLocation"),
        (lambda: send(deck, endpoint, "x", Body=b"{}"), "Exactly one of Body and InputLocation"),
        (lambda: send(deck, endpoint, Body=b"x" * 128_001), "less than or equal to 128000"),
        (lambda: send(deck, endpoint, InputLocation="s3://async"), "does not name an object"),
        (lambda: send(deck, endpoint, "x", RequestTTLSeconds=21_601), "requestTTLSeconds"),
        (lambda: send(deck, endpoint, "x", Filename="a.b.c"), "filename"),
    ]
    for call, message in calls:
        with pytest.raises(ClientError, match=message) as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "ValidationError"
    topics = {"NotificationConfig": {"SuccessTopic": "arn:aws:sns:us-east-1:123456789012:done"}}
    for output in (PATHS | topics, {}):
        with pytest.raises(ClientError, match=r"NotificationConfig|without S3OutputPath") as missing:
            deck.sagemaker.create_endpoint_config(
                EndpointConfigName="refused-async",
                ProductionVariants=[variant("main", deck.model())],
                AsyncInferenceConfig={"OutputConfig": output},
            )
        assert missing.value.response["Error"]["Code"] == "NotImplementedException"


def test_what_was_accepted_survives_a_kill_of_the_service(tmp_path: Path) -> None:
    def begin() -> Deck:
        service = Service(tmp_path, "--speed", "60")
        return Deck(service, *(service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")))

    deck = begin()
    endpoint = queueing(deck, concurrent=1, ECHO_SECONDS="2")
    locations = [send(deck, endpoint, Body=b'{"inputs": "%d"}' % n)["OutputLocation"] for n in range(2)]
    until(lambda: deck.service.client("s3").list_buckets()["Buckets"], bool)
    until(lambda: (tmp_path / "s3" / "buckets.json").exists(), bool)
    assert deck.service.stop(signal.SIGKILL) == -signal.SIGKILL
    deck = begin()
    try:
        assert {json.loads(read(deck, place))[0]["generated_text"] for place in locations} == {"0", "1"}
        until(lambda: list((tmp_path / "async").iterdir()), lambda left: not left)
    finally:
        assert deck.service.stop() == 0
