"""A release into AWS's own containers, and a hub model, from the deployment's form on: stood in for, and said so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flows.conftest import Finished, Line
from tests.serving.tiny_folder import write_tiny_folder

LMI = "slimline-tiny-lmi"
ON_LMI = (
    "plan.target.kind=lmi", "plan.instance_type=ml.g5.xlarge", f"plan.endpoint={LMI}", "plan.mode=ALL_AT_ONCE",
    "plan.instances=1", "plan.judge.promote=false",
)  # fmt: skip
HUB_BUCKET, HUB_PREFIX = "jumpstart-private-cache-prod-us-east-1", "stand-in/textgeneration/artifacts/inference-prepack"


def arguments(*parameters: str) -> list[str]:
    return [argument for parameter in parameters for argument in ("-p", parameter)]


@pytest.fixture(scope="module")
def on_lmi(line: Line, released: Finished) -> Finished:
    """The stages are those of ``released``: cached. Only the release is another."""
    assert released.code == 0, released.text
    return line.slimline("run", "tiny", *arguments(*ON_LMI))


def test_a_release_into_lmi_says_what_served_in_its_place(line: Line, on_lmi: Finished) -> None:
    assert on_lmi.code == 0, on_lmi.text
    pages = line.artifacts(on_lmi.flow_run_id)
    assert "djl-inference:0.38.0-lmi29.0.0-cu130" in pages["target"]["data"]
    said = "Slimline's local engine, on this machine's CPU, stands in for LMI (vLLM)"
    assert said in pages["release"]["data"] and said in on_lmi.text
    made = line.client("sagemaker").describe_model(ModelName=line.serving(LMI))["PrimaryContainer"]
    assert made["Environment"]["HF_MODEL_ID"] == "/opt/ml/model" and "OPTION_QUANTIZE" not in made["Environment"]


def test_a_recipe_for_bits_that_vllm_does_not_read_is_refused_before_any_work(line: Line) -> None:
    refused = line.slimline("run", "tiny", *arguments(*ON_LMI, "recipe.quantize.bits=3"))
    assert refused.code == 1 and "Marlin" in refused.text and "fetch" not in refused.text


def test_a_registered_version_is_checked_by_its_name(line: Line, released: Finished) -> None:
    model = ("check", "--model", "slimline-tiny", "--version", "champion")
    good = line.slimline(*model, "--target", "lmi", "--instance-type", "ml.g5.xlarge", "--json")
    assert good.code == 0, good.text
    # MLflow writes its progress to stderr, which stands behind it.
    assert json.JSONDecoder().raw_decode(good.text)[0]["facts"]["format"] == "compressed-tensors"
    bad = line.slimline(*model, "--target", "neuron", "--instance-type", "ml.inf2.xlarge")
    assert bad.code == 3 and "refuse" in bad.text
    absent = line.slimline("check", "--model", "slimline-tiny", "--version", "9999")
    assert absent.code == 1 and "RefusedModel" in absent.text


def test_a_hub_model_is_served_by_its_id(line: Line, tmp_path: Path) -> None:
    s3 = line.client("s3")
    s3.create_bucket(Bucket=HUB_BUCKET)
    for file in write_tiny_folder(tmp_path).iterdir():
        s3.upload_file(str(file), HUB_BUCKET, f"{HUB_PREFIX}/v1.0.0/{file.name}")
    model = ("plan.target.jumpstart.model_id=stand-in-textgeneration", "plan.instances=1", "plan.mode=ALL_AT_ONCE")
    refused = line.slimline("run", "hub-model", *arguments(*model))
    assert refused.code == 1 and "licence agreement" in refused.text
    accepted = (*model, "plan.target.jumpstart.accept_eula=true")
    served = line.slimline("run", "hub-model", *arguments(*accepted))
    assert served.code == 0, served.text
    assert "slimline-hub: created" in served.text and "stands in for LMI (vLLM)" in served.text
    again = line.slimline("run", "hub-model", *arguments(*accepted))
    assert again.code == 0 and "slimline-hub: unchanged" in again.text
