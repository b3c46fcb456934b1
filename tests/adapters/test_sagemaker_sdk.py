"""AWS's SageMaker SDK in an environment of its own. Where that is built, it is asked for real; nothing is built for a
test. ``golden/sdk_images.json`` is what release 2.27 of sagemaker-core answered.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.engines import Environment, build_environment, find_environment, read_constraints
from tasks.adapters.sagemaker_sdk import (
    KINDS,
    SDK,
    ImageAsk,
    JumpStartModel,
    ModelAsk,
    SdkUnreachable,
    asker,
    sdk_image,
    sdk_images,
    sdk_model,
)
from tasks.errors import RefusedModel, SlimlineError
from tasks.settings import settings
from tests.local.stack import Service

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "sdk_images.json").read_text())
BUCKET = "jumpstart-cache-prod-us-east-1"
MODEL = "huggingface-llm-small"
ECR = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


def spec(version: str) -> dict[str, Any]:
    """A model's specification in the fields that the SDK reads: sagemaker/core/jumpstart/types.py,
    JumpStartMetadataBaseFields. The contents are ours: AWS's own bucket is not reached here.
    """
    return {
        "model_id": MODEL, "version": version, "min_sdk_version": "2.189.0", "url": "https://example.com",
        "hosting_ecr_specs": {"framework": "djl-lmi", "framework_version": "0.36.0", "py_version": "py312"},
        "hosting_artifact_key": f"{MODEL}/artifacts/inference/v{version}/",
        "hosting_prepacked_artifact_key": f"{MODEL}/artifacts/inference-prepack/v{version}/",
        "hosting_use_script_uri": False, "training_supported": False,
        "inference_environment_variables": [
            {"name": "HF_MODEL_ID", "type": "text", "default": "/opt/ml/model", "scope": "container",
             "required_for_model_class": True},
        ],
        "default_inference_instance_type": "ml.g5.xlarge",
        "supported_inference_instance_types": ["ml.g5.xlarge", "ml.g5.12xlarge"],
        "hosting_instance_type_variants": {
            "regional_aliases": {"us-east-1": {"lmi": f"{ECR}/djl-inference:0.36.0-lmi27.0.0-cu130"}},
            "variants": {
                "g5": {"regional_properties": {"image_uri": "$lmi"}},
                "ml.g5.12xlarge": {"properties": {"environment_variables": {"TENSOR_PARALLEL_DEGREE": "4"}}},
            },
        },
        "predictor_specs": {
            "supported_content_types": ["application/json"], "supported_accept_types": ["application/json"],
            "default_content_type": "application/json", "default_accept_type": "application/json",
        },
        "default_payloads": {
            "capital": {
                "content_type": "application/json", "prompt_key": "inputs",
                "body": {"inputs": "The capital of France is",
                         "parameters": {"max_new_tokens": 16, "top_p": 0.9, "temperature": 0.6}},
            }
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def built() -> Environment:
    found = find_environment(SDK, settings().engines)
    return found or pytest.skip("the SageMaker SDK is not built; `slimline engines --build sagemaker` builds it")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[str]:
    """JumpStart's bucket on the embedded service's S3: two versions of one model. Returns the service's address."""
    service = Service(tmp_path_factory.mktemp("service"))
    s3 = service.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    versions = ("1.2.0", "1.10.0")
    manifest = [
        {"model_id": MODEL, "version": version, "min_version": "2.189.0", "search_keywords": ["llm"],
         "spec_key": f"community_models/{MODEL}/specs_v{version}.json"}
        for version in versions
    ]  # fmt: skip
    s3.put_object(Bucket=BUCKET, Key="models_manifest.json", Body=json.dumps(manifest).encode())
    for header in manifest:
        body = json.dumps(spec(str(header["version"]))).encode()
        s3.put_object(Bucket=BUCKET, Key=str(header["spec_key"]), Body=body)
    yield service.url
    service.stop()


def test_the_sdk_answers_as_recorded(built: Environment) -> None:
    asks = tuple(
        ImageAsk(**{name: row[name] for name in ("kind", "region", "version", "instance_type")}) for row in GOLDEN
    )
    assert list(sdk_images(built, asks)) == [row["uri"] for row in GOLDEN]


def test_one_image_is_the_seam_of_the_vendored_table(built: Environment) -> None:
    ask = asker(settings().engines)
    assert ask is not None
    assert ask("lmi", "us-east-1", "0.36.0", "ml.g5.xlarge") == f"{ECR}/djl-inference:0.36.0-lmi27.0.0-cu130"
    assert sdk_image(built, "lmi", "us-east-1", "9.9.9") is None


def test_a_jumpstart_model_is_resolved_from_its_bucket(
    built: Environment, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    newest = sdk_model(built, ModelAsk(MODEL, "us-east-1"))
    assert newest == JumpStartModel(
        model_id=MODEL,
        version="1.10.0",  # not the last in order of letters
        instance_type="ml.g5.xlarge",
        image=f"{ECR}/djl-inference:0.36.0-lmi27.0.0-cu130",
        files=f"s3://{BUCKET}/{MODEL}/artifacts/inference-prepack/v1.10.0/",
        environment=newest.environment,
        payloads={"capital": spec("1.10.0")["default_payloads"]["capital"]["body"]},
    )
    assert newest.environment["HF_MODEL_ID"] == "/opt/ml/model"
    older = sdk_model(built, ModelAsk(MODEL, "us-east-1", "1.2.0", "ml.g5.12xlarge"))
    assert (older.version, older.environment["TENSOR_PARALLEL_DEGREE"]) == ("1.2.0", "4")


@pytest.mark.parametrize(
    ("model", "region", "version"),
    [("huggingface-llm-absent", "us-east-1", ""), (MODEL, "us-east-1", "7.0.0"), (MODEL, "xx-nowhere-1", "")],
)
def test_what_jumpstart_does_not_have_is_refused(
    built: Environment, bucket: str, monkeypatch: pytest.MonkeyPatch, model: str, region: str, version: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    with pytest.raises(RefusedModel, match="does not host this model") as refused:
        sdk_model(built, ModelAsk(model, region, version))
    assert model in str(refused.value.observed) and region in str(refused.value.observed)


def test_a_bucket_that_does_not_answer_is_worth_another_try(
    built: Environment, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    with pytest.raises(SdkUnreachable, match="cannot be read") as lost:
        sdk_model(built, ModelAsk(MODEL, "eu-west-1"))  # a region of JumpStart whose bucket is not there
    assert lost.value.transient


def test_the_golden_answers_cover_every_kind_and_what_is_not_known() -> None:
    assert {row["kind"] for row in GOLDEN} == set(KINDS)
    assert [row for row in GOLDEN if row["uri"] is None] and {row["region"] for row in GOLDEN} > {"cn-north-1"}


def test_the_pins_are_versions_only_and_the_script_imports_nothing_of_ours() -> None:
    pins = read_constraints(SDK.constraints)
    assert set(SDK.packages) <= pins.keys() and "sagemaker" not in pins, "the whole SDK has 132 packages"
    nodes = list(ast.walk(ast.parse(SDK.script.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {package.split(".")[0] for package in imported}.isdisjoint({"tasks", "flows", "deployments", "benchmarks"})


def test_nothing_is_built_because_somebody_asks(tmp_path: Path) -> None:
    assert asker(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_an_environment_without_the_sdk_is_quoted(tmp_path: Path) -> None:
    bare = dataclasses.replace(SDK, packages=(), check="import json")
    with pytest.raises(SlimlineError, match=r"(?s)the SageMaker SDK failed.*No module named"):
        sdk_image(build_environment(bare, tmp_path), "lmi", "us-east-1", "0.36.0")
