"""Batch transform with plain boto3: objects in S3, real model servers, objects in S3."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from deployments.local.endpoint_service.transform.records import TooLong, assembled, output_key, payloads
from tests.local.stack import ROLE, Deck, until

SECOND = {"InvocationsTimeoutInSeconds": 1, "InvocationsMaxRetries": 0}
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/batch:1"


class Jobs:
    """A bucket, and short ways to start a job on it."""

    def __init__(self, deck: Deck) -> None:
        self.deck = deck
        self.s3 = deck.service.client("s3")
        self.bucket = f"b-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.model = deck.model(image=IMAGE, BATCH_WORD="model")

    def put(self, **objects: bytes) -> None:
        """Objects below ``in/``; a double underscore in the name is a folder."""
        for name, body in objects.items():
            self.s3.put_object(Bucket=self.bucket, Key=f"in/{name.replace('__', '/')}", Body=body)

    def request(self, **change: Any) -> dict[str, Any]:
        source = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.bucket}/in/"}}}
        given = {
            "TransformJobName": f"j-{uuid.uuid4().hex[:8]}",
            "ModelName": self.model,
            "TransformInput": source | change.pop("source", {}),
            "TransformOutput": {"S3OutputPath": f"s3://{self.bucket}/out"} | change.pop("output", {}),
            "TransformResources": {"InstanceType": "ml.m5.xlarge", "InstanceCount": change.pop("count", 1)},
        }
        return given | change

    def start(self, **change: Any) -> str:
        request = self.request(**change)
        self.deck.sagemaker.create_transform_job(**request)
        name: str = request["TransformJobName"]
        return name

    def describe(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.deck.sagemaker.describe_transform_job(TransformJobName=name)
        return found

    def ended(self, name: str) -> dict[str, Any]:
        ends = ("Completed", "Failed", "Stopped")
        found: dict[str, Any] = until(lambda: self.describe(name), lambda seen: seen["TransformJobStatus"] in ends, 90)
        return found

    def out(self) -> dict[str, bytes]:
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="out/").get("Contents", [])
        keys = [item["Key"] for item in found]
        return {key: self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@pytest.fixture
def jobs(deck: Deck) -> Jobs:
    return Jobs(deck)


def processes(deck: Deck) -> int:
    """Model servers of transform jobs that run now."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
        except OSError:
            continue
        found += b"SAGEMAKER_BATCH=true" in environment and str(deck.service.data).encode() in environment
    return found


def test_every_line_is_asked_for_and_answers_lie_beside_their_object(jobs: Jobs) -> None:
    jobs.put(one=b"a\nb\nc\n", deep__two=b"d")
    name = jobs.start(
        count=2,
        source={"SplitType": "Line", "ContentType": "text/plain"},
        output={"AssembleWith": "Line", "Accept": "application/jsonlines"},
        BatchStrategy="SingleRecord",
        MaxConcurrentTransforms=2,
        Environment={"BATCH_WORD": "job"},
        Tags=[{"Key": "run", "Value": "7"}],
    )
    found = jobs.ended(name)
    assert found["TransformJobStatus"] == "Completed", found
    assert found["TransformStartTime"] <= found["TransformEndTime"] and found["ModelName"] == jobs.model
    answers = {key: [json.loads(line) for line in body.splitlines()] for key, body in jobs.out().items()}
    assert {key: [each["said"] for each in lines] for key, lines in answers.items()} == {
        "out/one.out": ["a", "b", "c"],
        "out/deep/two.out": ["d"],
    }
    about = {"together": 1, "word": "job", "batch": "true", "type": "text/plain", "accept": "application/jsonlines"}
    assert answers["out/one.out"][0] == {"said": "a", **about}
    tags = jobs.deck.sagemaker.list_tags(ResourceArn=found["TransformJobArn"])["Tags"]
    assert tags == [{"Key": "run", "Value": "7"}]
    until(lambda: processes(jobs.deck), lambda count: count == 0)
    listed = jobs.deck.sagemaker.list_transform_jobs(NameContains=name, StatusEquals="Completed")
    assert [each["TransformJobName"] for each in listed["TransformJobSummaries"]] == [name]


def test_lines_go_together_and_the_container_says_how_many(jobs: Jobs) -> None:
    jobs.put(packed=gzip.compress(b"x\n" * 5))
    source = {"SplitType": "Line", "CompressionType": "Gzip"}
    assert jobs.ended(jobs.start(source=source))["TransformJobStatus"] == "Completed"
    assert [json.loads(line)["together"] for line in jobs.out()["out/packed.out"].splitlines()] == [5] * 5
    said = json.dumps({"MaxConcurrentTransforms": 2, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 1})
    name = jobs.start(source=source, output={"AssembleWith": "Line"}, Environment={"BATCH_PARAMETERS": said})
    assert jobs.ended(name)["TransformJobStatus"] == "Completed"
    assert [json.loads(line)["together"] for line in jobs.out()["out/packed.out"].splitlines()] == [1] * 5
    log = (jobs.deck.service.data / "logs" / "transform" / name / "data-log").read_text()
    assert "MaxConcurrentTransforms=2, MaxPayloadInMB=1, BatchStrategy=SINGLE_RECORD" in log


def test_an_object_that_fails_does_not_hold_the_others(jobs: Jobs) -> None:
    jobs.put(bad=b"status 400", good=b"hello", again=b"once 503")
    found = jobs.ended(jobs.start())
    assert found["TransformJobStatus"] == "Failed"
    assert found["FailureReason"].startswith("ClientError: See job logs for more information")
    assert "in/bad: Bad HTTP status received from algorithm: 400" in found["FailureReason"]
    assert set(jobs.out()) == {"out/good.out", "out/again.out"}
    page = requests.get(f"{jobs.deck.service.url}/_slimline/", timeout=10).text
    assert found["TransformJobName"] in page and "Bad HTTP status received from algorithm: 400" in page


@pytest.mark.parametrize(
    ("body", "change", "reason"),
    [
        (b"status 500", {"ModelClientConfig": {"InvocationsMaxRetries": 0}}, "AlgorithmError: See job logs"),
        (b"wait", {"ModelClientConfig": SECOND}, "Unable to get response from algorithm"),
        (b"x" * 1_048_577, {"MaxPayloadInMB": 1}, "longer than MaxPayloadInMB"),
        (b"not gzip", {"source": {"CompressionType": "Gzip"}}, "Not a gzipped file"),
        (b"a", {"output": {"S3OutputPath": "s3://no-such-bucket/out"}}, "NoSuchBucket"),
        (b"a", {"image": "triton-server:24.09"}, "ClientError: This stack has no runtime for the image"),
    ],
)
def test_what_makes_a_job_fail(jobs: Jobs, body: bytes, change: dict[str, Any], reason: str) -> None:
    if "image" in change:
        change = {"ModelName": jobs.deck.model(**change)}
    jobs.put(only=body)
    found = jobs.ended(jobs.start(**change))
    assert found["TransformJobStatus"] == "Failed"
    assert reason in found["FailureReason"], found["FailureReason"]
    assert jobs.out() == {}


def test_faults_reach_jobs(jobs: Jobs, faults: Any) -> None:
    jobs.put(one=b"a\nb\nc\nd")
    lines = {"source": {"SplitType": "Line"}, "BatchStrategy": "SingleRecord"}
    once = {"ModelClientConfig": {"InvocationsMaxRetries": 0}}
    faults("errors", endpoint="an-endpoint")
    faults("errors", job="another")
    assert jobs.ended(jobs.start(**lines))["TransformJobStatus"] == "Completed"
    for kind, more, change, reason in (
        ("errors", {"share": 0.5}, once, "AlgorithmError: See job logs"),
        ("errors", {"status": 400, "times": 1}, {}, "Bad HTTP status received from algorithm: 400"),
        ("dead_model", {}, once, "Unable to get response from algorithm"),
        ("failed_start", {"times": 1}, {}, "The model server did not become healthy"),
    ):
        job = jobs.request(**lines, **change)
        faults(kind, job=job["TransformJobName"], **more)
        jobs.deck.sagemaker.create_transform_job(**job)
        found = jobs.ended(job["TransformJobName"])
        assert found["TransformJobStatus"] == "Failed" and reason in found["FailureReason"], (kind, found)
    job = jobs.request(**lines)
    faults("errors", job=job["TransformJobName"], times=2)  # asked for again, three times in all
    jobs.deck.sagemaker.create_transform_job(**job)
    assert jobs.ended(job["TransformJobName"])["TransformJobStatus"] == "Completed"


def test_a_model_of_an_s3_prefix_is_refused(jobs: Jobs) -> None:
    name = f"m-{uuid.uuid4().hex[:8]}"
    source = {"S3Uri": f"s3://{jobs.bucket}/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"Image": IMAGE, "ModelDataSource": {"S3DataSource": source}}
    jobs.deck.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    with pytest.raises(ClientError, match="ModelDataSource, which batch transform does not support"):
        jobs.start(ModelName=name)


def test_a_job_is_stopped_and_its_model_server_ends(jobs: Jobs) -> None:
    jobs.put(slow=b"wait")
    name = jobs.start()
    until(lambda: processes(jobs.deck), lambda count: count > 0)
    assert jobs.describe(name)["TransformJobStatus"] == "InProgress"
    jobs.deck.sagemaker.stop_transform_job(TransformJobName=name)
    assert jobs.describe(name)["TransformJobStatus"] in ("Stopping", "Stopped")
    assert jobs.ended(name)["TransformJobStatus"] == "Stopped"
    until(lambda: processes(jobs.deck), lambda count: count == 0)
    with pytest.raises(ClientError, match="rejected because the transform job is in status Stopped"):
        jobs.deck.sagemaker.stop_transform_job(TransformJobName=name)


def test_what_is_refused(jobs: Jobs) -> None:
    def refused(message: str, code: str = "ValidationException", **change: Any) -> None:
        with pytest.raises(ClientError, match=message) as error:
            jobs.deck.sagemaker.create_transform_job(**jobs.request(**change))
        assert error.value.response["Error"]["Code"] == code

    name = jobs.start()
    assert "No S3 objects found under S3 URL" in jobs.ended(name)["FailureReason"]
    refused("Job name must be unique", "ResourceInUse", TransformJobName=name)
    refused("Could not find model", ModelName="none")
    refused("must not exceed 100 MB", MaxPayloadInMB=60, MaxConcurrentTransforms=2)
    refused("must be an S3 URI", output={"S3OutputPath": "https://b/out"})
    refused("enum value set", source={"SplitType": "Word"})
    refused("SplitType RecordIO", "NotImplementedException", source={"SplitType": "RecordIO"})
    refused("DataProcessing JoinSource", "NotImplementedException", DataProcessing={"JoinSource": "Input"})
    refused("current utilization", "ResourceLimitExceeded", count=1000)
    with pytest.raises(ClientError, match="Could not find requested job with name: none"):
        jobs.describe("none")


def cut(tmp_path: Path, content: bytes, **change: Any) -> list[bytes]:
    path = tmp_path / "object"
    path.write_bytes(content)
    return list(payloads(path, **{"packed": False, "lines": True, "many": True, "limit": 0} | change))


def test_payloads(tmp_path: Path) -> None:
    assert cut(tmp_path, b"aa\r\nbb\ncc", limit=5) == [b"aa\nbb", b"cc"]
    assert cut(tmp_path, b"aa\nbb\n", many=False) == [b"aa", b"bb"]
    assert cut(tmp_path, b"aa\nbb\n", lines=False) == [b"aa\nbb\n"]
    assert cut(tmp_path, b"aa\n" * 3) == [b"aa\naa\naa"]
    for change in ({"lines": False}, {"many": False}, {}):
        with pytest.raises(TooLong):
            cut(tmp_path, b"aaaaaa", limit=5, **change)


@pytest.mark.parametrize(
    ("source", "key", "prefix", "expected"),
    [
        ("in/", "in/a/b.csv", "out/", "out/a/b.csv.out"),
        ("in/b.csv", "in/b.csv", "", "b.csv.out"),
        ("", "in/b.csv", "out", "out/in/b.csv.out"),
        ("in/part-", "in/part-1", "o/p", "o/p/part-1.out"),
    ],
)
def test_output_keys(source: str, key: str, prefix: str, expected: str) -> None:
    assert output_key(source, key, prefix) == expected
    assert (assembled(b"a", True), assembled(b"a\n", True), assembled(b"a", False)) == (b"a\n", b"a\n", b"a")
