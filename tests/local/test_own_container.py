"""The service runs Slimline's real inference container with a real (tiny) model from S3."""

from __future__ import annotations

import json
from pathlib import Path

from tests.local.stack import ROLE, Deck, variant
from tests.serving.tiny_folder import write_tiny_folder


def test_the_inference_image_serves_a_model_folder_from_s3(deck: Deck, tmp_path: Path) -> None:
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="tiny")
    for file in write_tiny_folder(tmp_path).iterdir():
        s3.upload_file(str(file), "tiny", f"model/{file.name}")
    source = {"S3Uri": "s3://tiny/model/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/slimline-inference:0.1.0",
        "ModelDataSource": {"S3DataSource": source},
    }
    deck.sagemaker.create_model(ModelName="tiny", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    endpoint = deck.endpoint(deck.config(variant("main", "tiny")))
    request = {"inputs": "Hello", "parameters": {"max_new_tokens": 3}}
    answer = deck.runtime.invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Body=json.dumps(request).encode()
    )
    generated = json.loads(answer["Body"].read())[0]["generated_text"]
    assert len(generated) > 0
