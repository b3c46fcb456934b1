"""Batch transform of a version: real model servers over objects in S3, once a content, with every answer counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from tasks.adapters.batch_requests import attempt_name, batch_model, batch_name, output_uri, transform_job
from tasks.adapters.sagemaker import SageMaker
from tasks.batch import batch_markdown, count, run_job
from tasks.batch_plan import BatchPlan, BatchResult, InputObject
from tasks.contracts import ModelPackage
from tasks.errors import BatchFailed, BatchInterrupted, Refused, RefusedData, RefusedRequest
from tasks.retrying import is_transient
from tests.adapters.packages import ECR_IMAGE, ROLE, on_aws, package
from tests.adapters.releasing import Desk
from tests.adapters.written import same_as_written
from tests.local.stack import until

ARCHIVE = f"s3://slimline-models/models/{'a' * 64}.tar.gz"


@dataclass
class Bucket:
    """A prefix of its own for one test."""

    desk: Desk
    name: str

    def __post_init__(self) -> None:
        self.s3 = boto3.client("s3", endpoint_url=self.desk.url, region_name="us-east-1")
        self.plan = BatchPlan(input=f"s3://slimline-test/{self.name}/in/", output=f"s3://slimline-test/{self.name}/out")

    @property
    def cloud(self) -> SageMaker:
        return self.desk.cloud()

    def put(self, **objects: list[str]) -> None:
        for name, prompts in objects.items():
            lines = "".join(json.dumps({"inputs": prompt}) + "\n" for prompt in prompts)
            self.s3.put_object(Bucket="slimline-test", Key=f"{self.name}/in/{name}.jsonl", Body=lines.encode())

    def answers(self, name: str) -> list[str]:
        key = f"{self.name}/out/{name}.jsonl.out"
        lines = self.s3.get_object(Bucket="slimline-test", Key=key)["Body"].read().splitlines()
        return [json.loads(line)[0]["generated_text"] for line in lines]

    def package(self) -> ModelPackage:
        folder, digest = self.desk.folder / "batch-model", "b" * 64
        folder.mkdir(exist_ok=True)
        (folder / "says.txt").write_text("batch")
        return package("7", "echo:1", self.cloud.upload_archive(folder, digest), digest)

    def run(self, plan: BatchPlan | None = None) -> BatchResult:
        plan = plan or self.plan
        self.cloud.check_batch(plan, "echo:1")
        objects, packed = self.cloud.batches.inputs(plan), self.package()
        job = run_job(self.cloud, packed, plan, objects, lambda share, text: None)
        return count(self.cloud, job, packed, plan, objects)


@pytest.fixture
def bucket(desk: Desk, request: pytest.FixtureRequest) -> Bucket:
    desk.version("1")  # makes the bucket
    return Bucket(desk, f"b{abs(hash(request.node.name))}")


@pytest.fixture
def fault(desk: Desk) -> Iterator[Any]:
    url = f"{desk.url}/_slimline/faults"
    yield lambda **given: requests.post(url, json=given, timeout=10).raise_for_status()
    requests.delete(url, timeout=10)


def test_every_record_has_its_answer_and_the_same_request_is_done_once(bucket: Bucket) -> None:
    bucket.put(a=["one", "two", "three"], b=["four"])
    first = bucket.run()
    assert (first.objects, first.records, first.reused, first.version) == (2, 4, False, "7")
    assert bucket.answers("a") == ["one", "two", "three"] and bucket.answers("b") == ["four"]
    assert "4 records, 4 answers" in batch_markdown(first)
    again = bucket.run()
    assert again.reused and again.job == first.job
    bucket.put(b=["four", "five"])
    changed = bucket.run()
    assert changed.job != first.job and changed.records == 5 and bucket.answers("b") == ["four", "five"]
    client = boto3.client("sagemaker", endpoint_url=bucket.desk.url, region_name="us-east-1")
    assert [each for each in client.list_models()["Models"] if "batch" in each["ModelName"]] == []
    assert not [entry for entry in bucket.cloud._ledger.open_entries() if "batch" in entry.name]


def test_answers_that_were_lost_are_made_again(bucket: Bucket) -> None:
    bucket.put(a=["one"], b=["two"])
    first = bucket.run()
    bucket.s3.delete_object(Bucket="slimline-test", Key=f"{bucket.name}/out/b.jsonl.out")
    again = bucket.run()
    assert again.job == attempt_name(first.job, 2) and not again.reused and bucket.answers("b") == ["two"]


def test_a_job_that_a_dead_run_began_is_waited_for(bucket: Bucket) -> None:
    bucket.put(a=["one"])
    objects, packed = bucket.cloud.batches.inputs(bucket.plan), bucket.package()
    begun = bucket.cloud.batches.begin(packed, bucket.plan, objects)
    found = bucket.cloud.batches.begin(packed, bucket.plan, objects)
    assert found.name == begun.name and begun.known is None and found.known is not None
    assert bucket.run().job == begun.name


def test_a_failed_job_says_why_and_the_next_run_is_a_new_attempt(bucket: Bucket, fault: Any) -> None:
    bucket.put(a=["one", "two"], b=["three"])
    plan = bucket.plan.model_copy(update={"retries": 0})
    fault(kind="errors", times=1)
    with pytest.raises(BatchFailed) as failed:
        bucket.run(plan)
    assert "AlgorithmError" in str(failed.value.observed) and "TransformJobs" in failed.value.remedy
    assert "Bad HTTP status received from algorithm: 500" in str(failed.value.observed)
    assert not is_transient(failed.value)
    assert bucket.run(plan).job.endswith("-2")
    fault(kind="errors", times=2)  # a request is repeated three times by default
    assert bucket.run().records == 3


def test_a_job_that_somebody_stopped_is_no_fault_of_sagemakers(bucket: Bucket, fault: Any) -> None:
    bucket.put(a=["one"])
    fault(kind="latency", seconds=30)
    objects, packed = bucket.cloud.batches.inputs(bucket.plan), bucket.package()
    begun = bucket.cloud.batches.begin(packed, bucket.plan, objects)
    client = boto3.client("sagemaker", endpoint_url=bucket.desk.url, region_name="us-east-1")
    client.stop_transform_job(TransformJobName=begun.name)
    until(lambda: client.describe_transform_job(TransformJobName=begun.name)["TransformJobStatus"], "Stopped".__eq__)
    with pytest.raises(BatchFailed, match="ended as Stopped") as stopped:
        bucket.cloud.batches.ended(begun)
    assert "somebody stopped it" in stopped.value.remedy and not is_transient(stopped.value)
    assert is_transient(BatchInterrupted("", observed="", limit="", remedy=""))


def test_an_answer_too_few_is_no_success(bucket: Bucket) -> None:
    bucket.put(a=["one", "two"])
    assert bucket.run().records == 2
    key = f"{bucket.name}/out/a.jsonl.out"
    objects = bucket.cloud.batches.inputs(bucket.plan)
    for body, said in ((b'["one"]\n', "1 answers to 2 records"), (b'["one"]\nerror\n', "line 2 is no JSON")):
        bucket.s3.put_object(Bucket="slimline-test", Key=key, Body=body)
        with pytest.raises(BatchFailed, match=said):
            bucket.cloud.batches.count_answers(bucket.plan, objects)


@pytest.mark.parametrize("line", ["no json", '{"prompt": "a"}', "[1]", '{"inputs": ""}', ""])
def test_a_line_that_is_no_record_is_refused_before(bucket: Bucket, line: str) -> None:
    body = f'{{"inputs": "good"}}\n{line}\n{{"inputs": "good"}}\n'
    bucket.s3.put_object(Bucket="slimline-test", Key=f"{bucket.name}/in/bad.jsonl", Body=body.encode())
    with pytest.raises(RefusedData, match="is no record") as refused:
        bucket.cloud.batches.inputs(bucket.plan)
    assert "bad.jsonl line 2" in str(refused.value.observed)


def test_no_record_at_all_is_refused(bucket: Bucket) -> None:
    for plan in (bucket.plan, BatchPlan(input="s3://no-such-bucket/in/")):
        with pytest.raises(RefusedData, match="nothing to transform"):
            bucket.cloud.batches.inputs(plan)


@pytest.mark.parametrize(
    ("change", "image", "cause"),
    [
        ({"max_payload_mb": 60, "concurrent": 2}, ECR_IMAGE, "too large together"),
        ({"input": "s3://b-1/data/", "output": "s3://b-1/data/out"}, ECR_IMAGE, "next run would read them"),
        ({"strategy": "MultiRecord"}, ECR_IMAGE, "one record a request"),
        ({"instance_type": "ml.p4d.24xlarge"}, ECR_IMAGE, "InstanceType"),
        ({}, "slimline-inference:0.1.0", "images from ECR"),
    ],
)
def test_what_cannot_be_is_refused_before(change: dict[str, Any], image: str, cause: str, tmp_path: Path) -> None:
    plan = BatchPlan.model_validate({"input": "s3://b-1/in/", "output": "s3://b-1/out/"} | change)
    with pytest.raises(Refused, match=cause):
        on_aws(tmp_path).check_batch(plan, image)


def test_a_model_in_a_prefix_is_refused(desk: Desk) -> None:
    with pytest.raises(RefusedRequest, match="no ModelDataSource"):
        desk.cloud().batches.check(BatchPlan(), package("7", "echo:1"))


def test_the_requests_are_what_a_reviewer_has_read(tmp_path: Path) -> None:
    plan = BatchPlan(input="s3://data-1/in/part-", output="s3://data-1/out/", instances=2, concurrent=4)
    on_aws(tmp_path).check_batch(plan, ECR_IMAGE)
    packed, objects = package("7", s3_uri=ARCHIVE), [InputObject(key="in/part-1", etag="e", size=9, records=1)]
    name = batch_name(packed, plan, objects, ROLE)
    assert batch_name(packed, plan.model_copy(update={"patience_seconds": 60}), objects, ROLE) == name
    asked = [
        {"CreateModel": batch_model(name, packed, ROLE, {}, "run")},
        {"CreateTransformJob": transform_job(name, name, packed, plan, "run")},
    ]
    same_as_written("batch", asked)
    assert output_uri(plan, "in/part-1") == "s3://data-1/out/part-1.out"
