"""Autoscaling, a queue and a batch through deployments: forms in, real model servers, artifacts and status out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.flows.conftest import Finished, Line
from tests.local.stack import until

ENDPOINT, QUEUE, BUCKET = "slimline-tiny", "slimline-queue", "slimline-models"


@contextmanager
def load(line: Line, threads: int) -> Iterator[None]:
    stop, body = threading.Event(), json.dumps({"inputs": "def main", "parameters": {"max_new_tokens": 2}}).encode()

    def ask() -> None:
        runtime = line.client("sagemaker-runtime")
        while not stop.wait(0.05):
            runtime.invoke_endpoint(EndpointName=ENDPOINT, ContentType="application/json", Body=body)

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()


def count(line: Line) -> int:
    seen = line.client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)
    return int(seen["ProductionVariants"][0]["CurrentInstanceCount"])


def test_the_plans_autoscaling_follows_the_load(line: Line, released: Finished) -> None:
    assert released.code == 0, released.text
    arguments = ["version=champion", "plan.scaling.target=2", "plan.scaling.max_instances=3"]
    arguments += ["plan.scaling.scale_out_cooldown=0", "plan.scaling.scale_in_cooldown=60"]
    done = line.slimline("run", "release-autoscaled", *(part for each in arguments for part in ("-p", each)))
    assert done.code == 0, done.text
    said = "1 to 3 instances, SageMakerVariantInvocationsPerInstance at 2"
    assert f"autoscaling: {said}" in done.text
    assert f"autoscaling: {said}" in line.artifacts(done.flow_run_id)["release"]["data"]
    with load(line, threads=2):
        until(lambda: count(line), lambda seen: seen == 3, seconds=120)
    shown = line.slimline("status", ENDPOINT)
    assert "autoscaling of AllTraffic: 1 to 3 instances, SageMakerVariantInvocationsPerInstance at 2" in shown.text
    assert "Setting desired instance count to 3. Successful" in shown.text
    refused = line.slimline("run", "release-autoscaled", "-p", "plan.instances=9", "-p", "version=champion")
    assert refused.code == 1 and "autoscaling would move the fleet" in refused.text
    off = line.slimline("run", "release-canary", "-p", "version=champion", "-p", "plan.scaling.kind=off")
    assert off.code == 0 and "autoscaling: off" in off.text, off.text
    assert "autoscaling of" not in line.slimline("status", ENDPOINT).text


@pytest.mark.usefixtures("released")
def test_every_record_in_s3_gets_an_answer(line: Line) -> None:
    s3, prompts = line.client("s3"), ["def main", "import os", "class A"]
    records = [json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": 3}}) for prompt in prompts]
    s3.put_object(Bucket=BUCKET, Key="batch/in/a.jsonl", Body="\n".join(records).encode())
    s3.put_object(Bucket=BUCKET, Key="batch/in/more/b.jsonl", Body=f"{records[0]}\n".encode())
    done = line.slimline("run", "batch")
    assert done.code == 0, done.text
    assert "Batch: 4 records, 4 answers" in done.text
    artifacts = line.artifacts(done.flow_run_id)
    assert {row["input"] for row in json.loads(artifacts["batch-objects"]["data"])} == {
        "batch/in/a.jsonl",
        "batch/in/more/b.jsonl",
    }
    found = s3.get_object(Bucket=BUCKET, Key="batch/out/a.jsonl.out")["Body"].read().splitlines()
    assert [bool(json.loads(each)[0]["generated_text"]) for each in found] == [True] * 3
    again = line.slimline("run", "batch")
    assert "nothing was computed again" in again.text, again.text
    s3.put_object(Bucket=BUCKET, Key="batch/in/bad.jsonl", Body=b'{"prompt": "a"}\n')
    refused = line.slimline("run", "batch")
    assert (
        refused.code == 1 and "a line of the input is no record" in refused.text and "bad.jsonl line 1" in refused.text
    )


@pytest.mark.usefixtures("released")
def test_an_asynchronous_endpoint_is_made_and_released_to(line: Line) -> None:
    arguments = ["version=champion", "plan.judge.promote=false", "plan.min_requests=3", "plan.bake_seconds=120"]
    done = line.slimline("run", "release-async", *(part for each in arguments for part in ("-p", each)))
    assert done.code == 0, done.text
    assert "The new version serves all traffic." in done.text and "a real inference answered" in done.text
    seen = line.client("sagemaker").describe_endpoint(EndpointName=QUEUE)
    assert seen["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] == f"s3://{BUCKET}/async/{QUEUE}/answers"
    listed = line.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"async/{QUEUE}/answers/")
    assert listed["KeyCount"] >= 3
    wrong = line.slimline("run", "release-canary", "-p", "version=champion", "-p", f"plan.endpoint={QUEUE}")
    assert wrong.code == 1 and "an endpoint keeps its kind of inference" in wrong.text
    line.client("sagemaker").delete_endpoint(EndpointName=QUEUE)
