"""InvokeEndpoint: weights, targets, errors, limits; and the metrics it writes."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.stack import ROLE, WAIT, Deck, variant


@pytest.fixture(scope="module")
def plain(deck: Deck) -> str:
    """An endpoint with one good variant, for tests that change nothing."""
    return deck.endpoint(deck.config(), keep=True)


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["Body"].read())


def test_create_wait_invoke_delete(deck: Deck) -> None:
    config = deck.config()
    deck.sagemaker.create_endpoint(EndpointName="whole", EndpointConfigName=config, Tags=[{"Key": "run", "Value": "1"}])
    assert deck.describe("whole")["EndpointStatus"] == "Creating"
    deck.sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="whole", WaiterConfig=WAIT)
    found = deck.describe("whole")
    assert found["ProductionVariants"][0]["DeployedImages"][0]["SpecifiedImage"].endswith("/echo:1")
    answer = deck.ask("whole", "hello", Accept="application/json", CustomAttributes="c000")
    assert body(answer) == [{"generated_text": "hello", "files": {}, "accept": "application/json"}]
    assert answer["InvokedProductionVariant"] == "main"
    assert answer["CustomAttributes"] == "c000"
    assert deck.sagemaker.list_tags(ResourceArn=found["EndpointArn"])["Tags"] == [{"Key": "run", "Value": "1"}]
    deck.sagemaker.delete_endpoint(EndpointName="whole")
    deck.sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="whole", WaiterConfig=WAIT)
    with pytest.raises(ClientError, match="Endpoint whole of account 123456789012 not found"):
        deck.ask("whole")


def test_weights_share_the_traffic_and_can_be_changed(deck: Deck) -> None:
    config = deck.config(variant("a", deck.model(), weight=3.0), variant("b", deck.model(), weight=1.0))
    endpoint = deck.endpoint(config)

    def served(times: int) -> dict[str, int]:
        names = [deck.ask(endpoint)["InvokedProductionVariant"] for _ in range(times)]
        return {name: names.count(name) for name in "ab"}

    before = served(200)
    assert 110 <= before["a"] <= 185, before  # 150 expected, ±6 standard deviations
    weights = [{"VariantName": "a", "DesiredWeight": 0.0}, {"VariantName": "b", "DesiredWeight": 1.0}]
    deck.sagemaker.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=weights)
    assert deck.settled(endpoint)["ProductionVariants"][0]["CurrentWeight"] == 0.0
    assert served(20) == {"a": 0, "b": 20}
    assert deck.ask(endpoint, TargetVariant="a")["InvokedProductionVariant"] == "a"
    with pytest.raises(ClientError, match="Variant c not found") as refused:
        deck.ask(endpoint, TargetVariant="c")
    assert refused.value.response["Error"]["Code"] == "ValidationError"


@pytest.mark.parametrize(("status", "side"), [("500", "server"), ("400", "client")])
def test_a_models_error_is_a_model_error(deck: Deck, status: str, side: str) -> None:
    endpoint = deck.endpoint(deck.config(ECHO_ERROR_SHARE="1", ECHO_STATUS=status))
    with pytest.raises(ClientError, match=rf"Received {side} error \({status}\) from primary") as failed:
        deck.ask(endpoint)
    response: Any = failed.value.response
    assert response["Error"]["Code"] == "ModelError"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == int(status)
    assert json.loads(response["OriginalMessage"]) == {"error": "rehearsed fault"}
    assert response["LogStreamArn"].endswith(f"log-group:/aws/sagemaker/Endpoints/{endpoint}")


def test_a_body_over_the_limit_is_refused(deck: Deck, plain: str) -> None:
    with pytest.raises(ClientError, match="exceeded 6291456 bytes") as refused:
        deck.runtime.invoke_endpoint(EndpointName=plain, Body=b"x" * 6_291_457)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def session(deck: Deck, endpoint: str, name: str, **payload: str) -> dict[str, Any]:
    answer: dict[str, Any] = deck.runtime.invoke_endpoint(
        EndpointName=endpoint, SessionId=name, ContentType="application/json", Body=json.dumps(payload).encode()
    )
    return answer | {"said": body(answer)}


def test_a_session_stays_with_the_instance_that_opened_it(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(count=2))
    opened = session(deck, endpoint, "NEW_SESSION", expires="2199-01-01T00:00:00Z")
    name, _, ends = opened["NewSessionId"].partition("; Expires=")
    assert ends == "2199-01-01T00:00:00Z"
    seen = [session(deck, endpoint, name)["said"] for _ in range(4)]
    assert seen == [{"pid": opened["said"]["pid"], "requests": count} for count in range(2, 6)]
    assert session(deck, endpoint, name, requestType="CLOSE")["ClosedSessionId"] == name
    expired = session(deck, endpoint, "NEW_SESSION", expires="2001-01-01T00:00:00Z")
    for over in (name, "absent", expired["NewSessionId"].partition(";")[0]):
        with pytest.raises(ClientError, match=f"Session {over} not found") as refused:
            session(deck, endpoint, over)
        assert refused.value.response["Error"]["Code"] == "ValidationError"
    with pytest.raises(ClientError, match="'sessionId' failed to satisfy constraint"):
        session(deck, endpoint, "not/a/session")


def test_model_files_come_from_s3(deck: Deck) -> None:
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="one/weights.txt", Body=b"prefix")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("weights.txt")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"packed"))
    s3.put_object(Bucket="models", Key="model.tar.gz", Body=packed.getvalue())
    source = {"S3Uri": "s3://models/one/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    image = {"Image": "echo:1"}
    container = image | {"ModelDataSource": {"S3DataSource": source}}
    deck.sagemaker.create_model(ModelName="from-prefix", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    container = image | {"ModelDataUrl": "s3://models/model.tar.gz"}
    deck.sagemaker.create_model(ModelName="from-archive", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    endpoint = deck.endpoint(deck.config(variant("prefix", "from-prefix"), variant("archive", "from-archive")))
    for name, text in (("prefix", "prefix"), ("archive", "packed")):
        assert body(deck.ask(endpoint, TargetVariant=name))[0]["files"] == {"weights.txt": text}


def test_missing_model_files_fail_the_endpoint(deck: Deck) -> None:
    container = {"Image": "echo:1", "ModelDataUrl": "s3://nowhere/model.tar.gz"}
    deck.sagemaker.create_model(ModelName="no-files", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    config = deck.config(variant("main", "no-files"))
    deck.sagemaker.create_endpoint(EndpointName="no-files", EndpointConfigName=config)
    found = deck.settled("no-files")
    assert found["EndpointStatus"] == "Failed"
    assert "s3://nowhere/model.tar.gz" in found["FailureReason"]


def test_invocations_are_metrics_of_both_dimension_sets(deck: Deck) -> None:
    config = deck.config(ECHO_ERROR_SHARE="0.25")
    endpoint = deck.endpoint(config)
    for _ in range(20):
        try:
            deck.ask(endpoint)
        except ClientError:
            continue
    now = parsedate_to_datetime(deck.describe(endpoint)["ResponseMetadata"]["HTTPHeaders"]["date"])
    both = {"EndpointName": endpoint, "VariantName": "main"}
    for dims in (both, both | {"EndpointConfigName": config}):
        metric = {"Namespace": "AWS/SageMaker", "Dimensions": [{"Name": k, "Value": v} for k, v in dims.items()]}
        span = {"StartTime": now - timedelta(hours=2), "EndTime": now + timedelta(hours=1)}

        def total(name: str, statistic: str, metric: Any = metric, span: Any = span) -> Any:
            points = deck.cloudwatch.get_metric_statistics(
                MetricName=name, Period=86_400, Statistics=[statistic], **metric, **span
            )["Datapoints"]
            return sum(point[statistic] for point in points)

        assert total("Invocations", "Sum") == 20
        assert total("Invocation5XXErrors", "Sum") == 5
        assert total("Invocation5XXErrors", "SampleCount") == 20
        assert total("Invocation4XXErrors", "Sum") == 0
        stat = {"Metric": metric | {"MetricName": "ModelLatency"}, "Period": 86_400, "Stat": "p90"}
        query = {"Id": "latency", "MetricStat": stat}
        result = deck.cloudwatch.get_metric_data(MetricDataQueries=[query], **span)["MetricDataResults"][0]
        assert all(0 < value < 60e6 for value in result["Values"]) and result["Values"]


def test_put_metrics_are_read_back_exactly(deck: Deck) -> None:
    now = parsedate_to_datetime(deck.cloudwatch.describe_alarms()["ResponseMetadata"]["HTTPHeaders"]["date"])
    minute = now.replace(second=0, tzinfo=UTC)
    data = [
        {"MetricName": "m", "Timestamp": minute, "Values": [1.0, 5.0], "Counts": [2.0, 1.0]},
        {"MetricName": "m", "Timestamp": minute + timedelta(seconds=30), "Value": 3.0},
        {"MetricName": "m", "Timestamp": minute - timedelta(minutes=1), "Value": 100.0},
    ]
    deck.cloudwatch.put_metric_data(Namespace="own", MetricData=data)
    wanted = ["SampleCount", "Sum", "Average", "Minimum", "Maximum"]
    span = {"Namespace": "own", "MetricName": "m", "StartTime": minute, "EndTime": minute + timedelta(minutes=1)}
    found = deck.cloudwatch.get_metric_statistics(Period=60, Statistics=wanted, **span)["Datapoints"]
    assert [[point[name] for name in wanted] for point in found] == [[4.0, 10.0, 2.5, 1.0, 5.0]]
    assert found[0]["Timestamp"] == minute
    found = deck.cloudwatch.get_metric_statistics(Period=60, ExtendedStatistics=["p50"], **span)["Datapoints"]
    assert found[0]["ExtendedStatistics"] == {"p50": 2.0}
    listed = deck.cloudwatch.list_metrics(Namespace="own")["Metrics"]
    assert listed == [{"Namespace": "own", "MetricName": "m", "Dimensions": []}]
    old = {"MetricName": "m", "Timestamp": datetime(2020, 1, 1, tzinfo=UTC), "Value": 1.0}
    with pytest.raises(ClientError, match="two weeks") as refused:
        deck.cloudwatch.put_metric_data(Namespace="own", MetricData=[old])
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_s3_and_sts_come_from_behind_the_same_address(deck: Deck) -> None:
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="objects")
    s3.put_object(Bucket="objects", Key="a b/ü.txt", Body=b"small")
    assert s3.get_object(Bucket="objects", Key="a b/ü.txt")["Body"].read() == b"small"
    whole = bytes(range(256)) * 81_920  # 20 MiB: boto3 sends three parts
    s3.upload_fileobj(io.BytesIO(whole), "objects", "large")
    assert s3.get_object(Bucket="objects", Key="large")["Body"].read() == whole
    assert s3.head_object(Bucket="objects", Key="large")["ContentLength"] == len(whole)
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket="objects", Key="absent")
    assert deck.service.client("sts").get_caller_identity()["Account"] == "123456789012"
