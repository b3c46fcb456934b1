"""Models of AWS's own containers on the embedded service: served by the local engine in their place, which is said,
and refused where the real container would not start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from botocore.exceptions import ClientError

from tasks.adapters.model_facts import read_facts
from tasks.adapters.obstacles import require_none
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.serveability import UNKNOWN, obstacles
from tasks.adapters.serving_content import container
from tasks.contracts import ModelPackage
from tasks.deploy import image_of
from tasks.errors import RefusedModel, RefusedRequest, ReleaseStuck
from tasks.following import wait_until_serving
from tasks.plans import ReleasePlan
from tasks.targets import JumpStart, Kind, Lmi, Target
from tests.adapters.packages import ROLE, package
from tests.local.stack import ROLE as LOCAL_ROLE
from tests.local.stack import Service, variant
from tests.serving.tiny_folder import write_tiny_folder

HUB_MODEL = "stand-in-textgeneration"
HUB_BUCKET = "jumpstart-private-cache-prod-us-east-1"
INSTANCES: dict[Kind, str] = {
    "own_cpu": "ml.m5.xlarge", "lmi": "ml.g5.xlarge", "huggingface": "ml.m5.xlarge", "neuron": "ml.inf2.xlarge",
    "jumpstart": "ml.g5.xlarge",
}  # fmt: skip
QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("targets"), "--speed", "60")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def cloud(service: Service, tmp_path_factory: pytest.TempPathFactory) -> SageMaker:
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    return SageMaker("us-east-1", service.url, "slimline-test", ROLE, ledger)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


def plan(kind: Kind, endpoint: str, **target: Any) -> ReleasePlan:
    return ReleasePlan(
        endpoint=endpoint, mode="ALL_AT_ONCE", instances=1, instance_type=INSTANCES[kind],
        target=Target(kind=kind, **target),
    )  # fmt: skip


def packaged(cloud: SageMaker, folder: Path, chosen: ReleasePlan, digest: str = "a" * 64) -> ModelPackage:
    image = "slimline-inference:1" if chosen.target.kind == "own_cpu" else image_of(chosen, cloud.region, None)
    return package("1", image, cloud.upload(folder, digest), digest).model_copy(update={"facts": read_facts(folder)})


@pytest.mark.parametrize("kind", ["lmi", "huggingface", "neuron"])
def test_an_aws_container_is_stood_in_for_and_that_is_said(
    service: Service, cloud: SageMaker, folder: Path, kind: Kind
) -> None:
    chosen = plan(kind, f"slimline-{kind}")
    new = packaged(cloud, folder, chosen)
    config = cloud.rollouts.create(chosen.endpoint, new, chosen)
    wait_until_serving(cloud, chosen.endpoint)
    assert cloud.probe(chosen.endpoint, "Hello", chosen.payload)
    described = service.client("sagemaker").describe_model(ModelName=config)["PrimaryContainer"]
    assert described["Image"] == new.image and ("HF_MODEL_ID" in described["Environment"]) == (kind != "huggingface")
    said = (
        f"Slimline's local engine, on this machine's CPU, stands in for {{}} ({new.image.split('/')[1].split(':')[0]})"
    )
    said = said.format(
        {"lmi": "LMI (vLLM)", "huggingface": "the Hugging Face container"}.get(kind, "Hugging Face's TGI")
    )
    fleet = service.fleets(chosen.endpoint)["fleets"][0]["variants"]["AllTraffic"]
    assert fleet["stand_in"].startswith(said)
    assert said in cloud.describe_rehearsal(chosen.endpoint)
    page = requests.get(f"{service.url}/_slimline/", timeout=10).text
    assert "local engine, on this machine&#x27;s CPU, stands in for" in page
    assert "stand_in" not in json.dumps(
        service.client("sagemaker").describe_endpoint(EndpointName=chosen.endpoint), default=str
    )
    cloud.delete_endpoint(chosen.endpoint, poll_seconds=0.1)


def test_our_own_container_stands_in_for_nothing(service: Service, cloud: SageMaker, folder: Path) -> None:
    chosen = plan("own_cpu", "slimline-own")
    cloud.rollouts.create(chosen.endpoint, packaged(cloud, folder, chosen), chosen)
    wait_until_serving(cloud, chosen.endpoint)
    assert service.fleets(chosen.endpoint)["fleets"][0]["variants"]["AllTraffic"]["stand_in"] == ""
    assert "stands in" not in cloud.describe_rehearsal(chosen.endpoint)
    cloud.delete_endpoint(chosen.endpoint, poll_seconds=0.1)


@pytest.mark.parametrize(
    ("kind", "instance_type", "quantization", "said"),
    [
        ("lmi", "ml.m5.xlarge", None, "vLLM found no GPU on ml.m5.xlarge"),
        ("lmi", "ml.g5.xlarge", QUANTIZED | {"bits": 3}, "4 and 8 bits"),
        ("neuron", "ml.inf2.xlarge", QUANTIZED, "no kernels for GPTQ"),
        ("neuron", "ml.g5.xlarge", None, "no NeuronCores of the second generation"),
        ("huggingface", "ml.m5.xlarge", QUANTIZED, "transformers asks for GPTQModel"),
    ],
)
def test_what_the_real_container_would_not_start_with_fails_here_too(
    cloud: SageMaker, folder: Path, tmp_path: Path, kind: Kind, instance_type: str,
    quantization: dict[str, Any] | None, said: str,
) -> None:  # fmt: skip
    """Sent past the preflight, as somebody else's client would."""
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"quantization_config": quantization} if quantization else config)
    )
    chosen = plan(kind, f"slimline-{kind}-bad")
    new = packaged(cloud, tmp_path, chosen, uuid4().hex * 2)
    sagemaker = cloud._aws.client("sagemaker")
    made = {"ModelName": f"bad-{uuid4().hex[:8]}"}
    sagemaker.create_model(**made, PrimaryContainer=container(new, chosen, {}), ExecutionRoleArn=LOCAL_ROLE)
    name = made["ModelName"]
    sagemaker.create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=[variant("AllTraffic", name) | {"InstanceType": instance_type}]
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    with pytest.raises(ReleaseStuck, match=said):
        wait_until_serving(cloud, name)
    sagemaker.delete_endpoint(EndpointName=name)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"InstanceType": "ml.g5.xlarge", "VolumeSizeInGB": 100}, "local storage"),
        (
            {"InstanceType": "ml.m5.xlarge", "InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1"},
            "not supported",
        ),
    ],
)
def test_variant_members_that_an_instance_type_does_not_have_are_refused(
    service: Service, extra: dict[str, Any], said: str
) -> None:
    sagemaker = service.client("sagemaker")
    name = f"v-{uuid4().hex[:8]}"
    sagemaker.create_model(ModelName=name, PrimaryContainer={"Image": "echo:1"}, ExecutionRoleArn=LOCAL_ROLE)
    with pytest.raises(ClientError, match=said):
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant("a", name) | extra])


def test_a_hub_model_is_served_with_its_licence_and_its_payload(
    service: Service, cloud: SageMaker, folder: Path
) -> None:
    s3 = service.client("s3")
    s3.create_bucket(Bucket=HUB_BUCKET)
    for file in folder.iterdir():
        s3.upload_file(str(file), HUB_BUCKET, f"stand-in/textgeneration/artifacts/inference-prepack/v1.0.0/{file.name}")
    payload = JumpStart(model_id=HUB_MODEL, max_new_tokens=5, top_p=0.8, temperature=0.7)
    refused = plan("jumpstart", "slimline-hub", jumpstart=payload)
    hub = cloud.hub_model(refused)
    assert hub.version == "1.0.0" and hub.gated and hub.environment["TENSOR_PARALLEL_DEGREE"] == "max"
    with pytest.raises(RefusedRequest, match="licence"):
        require_none(obstacles(UNKNOWN, refused, hub.image, hub))
    accepted = payload.model_copy(update={"accept_eula": True})
    chosen = plan("jumpstart", "slimline-hub", jumpstart=accepted)
    baseline = package(hub.version, hub.image, hub.s3_uri, "b" * 64).model_copy(update={"hub": hub})
    with pytest.raises(ClientError, match="AcceptEula"):
        cloud._maker.fleet(cloud.checks.blueprint(baseline, refused))
    first = cloud.rollouts.create(chosen.endpoint, baseline, chosen)
    wait_until_serving(cloud, chosen.endpoint)
    assert chosen.payload == {"max_new_tokens": 5, "top_p": 0.8, "temperature": 0.7}
    assert len(cloud.probe(chosen.endpoint, "Hello", chosen.payload)) > 0
    # Then a version of ours in the same container.
    ours = package("2", hub.image, cloud.upload(folder, "c" * 64), "c" * 64)
    ours = ours.model_copy(update={"hub": hub, "facts": read_facts(folder)})
    second = cloud.rollouts.update(chosen.endpoint, ours, chosen)
    containers = [
        service.client("sagemaker").describe_model(ModelName=name)["PrimaryContainer"] for name in (first, second)
    ]
    assert (
        containers[0]["Image"] == containers[1]["Image"]
        and containers[0]["Environment"] == containers[1]["Environment"]
    )
    sources = [each["ModelDataSource"]["S3DataSource"] for each in containers]
    assert sources[0]["ModelAccessConfig"] == {"AcceptEula": True} and "ModelAccessConfig" not in sources[1]


def test_a_hub_model_that_is_not_there_is_refused_by_name(cloud: SageMaker) -> None:
    for chosen in (JumpStart(model_id="no-such-model"), JumpStart(model_id=HUB_MODEL, version="9.9.9")):
        with pytest.raises(RefusedModel, match="has no such model") as refused:
            cloud.hub_model(plan("jumpstart", "slimline-hub", jumpstart=chosen))
        assert "list-hub-contents" in refused.value.remedy


def test_the_adapter_refuses_an_instance_that_the_container_does_not_run_on(cloud: SageMaker, folder: Path) -> None:
    chosen = plan("lmi", "slimline-lmi", lmi=Lmi()).model_copy(update={"instance_type": "ml.m5.xlarge"})
    with pytest.raises(RefusedRequest, match="lmi container does not run on this instance"):
        cloud.check_plan(chosen)
