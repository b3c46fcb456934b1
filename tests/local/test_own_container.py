"""The service runs Slimline's real inference container with a real (tiny) model from S3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.local.stack import ROLE, Deck, variant
from tests.serving.tiny_folder import write_tiny_folder


@pytest.fixture(scope="module")
def served(deck: Deck, tmp_path_factory: pytest.TempPathFactory) -> str:
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="tiny")
    for file in write_tiny_folder(tmp_path_factory.mktemp("tiny")).iterdir():
        s3.upload_file(str(file), "tiny", f"model/{file.name}")
    source = {"S3Uri": "s3://tiny/model/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/slimline-inference:0.1.0",
        "ModelDataSource": {"S3DataSource": source},
    }
    deck.sagemaker.create_model(ModelName="tiny", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    return deck.endpoint(deck.config(variant("main", "tiny")), keep=True)


def invoke(deck: Deck, endpoint: str, request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = deck.runtime.invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Body=json.dumps(request).encode()
    )
    return answer


def test_the_inference_image_serves_a_model_folder_from_s3(deck: Deck, served: str) -> None:
    answer = invoke(deck, served, {"inputs": "Hello", "parameters": {"max_new_tokens": 3}})
    generated = json.loads(answer["Body"].read())[0]["generated_text"]
    assert len(generated) > 0


def test_the_inference_image_streams_its_tokens(deck: Deck, served: str) -> None:
    request = {"inputs": "Hello", "parameters": {"max_new_tokens": 12, "return_full_text": False}}
    whole = json.loads(invoke(deck, served, request)["Body"].read())[0]["generated_text"]
    answer = deck.runtime.invoke_endpoint_with_response_stream(
        EndpointName=served, ContentType="application/json", Body=json.dumps(request | {"stream": True}).encode()
    )
    assert answer["ContentType"] == "text/event-stream"
    content = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]).decode()
    events = [json.loads(line.removeprefix("data: ")) for line in content.split("\n\n") if line]
    assert len(events) == 13
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"] == whole
