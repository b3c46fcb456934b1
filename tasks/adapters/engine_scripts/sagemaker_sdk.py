"""What AWS's SageMaker SDK answers: image addresses from the tables that it ships, and JumpStart models from its S3
bucket. A file that the environment's own Python runs; it imports nothing of Slimline.

Called with the path of a job, a JSON object: ``images`` (``kind``, ``region``, ``version``, ``instance_type`` each),
``models`` (``model_id``, ``version``, ``region``, ``instance_type`` each, version and type may be empty) and
``report``, the file for the answers. API: sagemaker-core 2.27, ``sagemaker/core/image_uris.py`` and
``sagemaker/core/jumpstart/``. Image addresses need no network. JumpStart's manifest is read from S3
(``jumpstart-cache-prod-REGION``), by boto3's own variables and credentials.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from packaging.version import Version
from sagemaker.core import environment_variables, image_uris, instance_types, model_uris
from sagemaker.core.jumpstart.accessors import JumpStartModelsAccessor
from sagemaker.core.jumpstart.constants import JUMPSTART_REGION_NAME_SET

# What the SDK calls the images. Neuron's are for one kind of chip and found without an instance type.
FRAMEWORKS = {
    "lmi": "djl-lmi",
    "huggingface": "huggingface",
    "neuron": "huggingface-llm-neuronx",
    "neuron-vllm": "huggingface-vllm-neuronx",
}
# Of its tables: versions that do not exist, regions that are not served.
REFUSALS = (ValueError, KeyError)


def image(ask: dict[str, Any]) -> dict[str, Any]:
    """``uri``, or ``refused`` with the SDK's words."""
    framework = FRAMEWORKS[ask["kind"]]
    try:
        rows = table(framework)
        wanted = ask["version"] or max(rows, key=Version)
        more: dict[str, Any] = {}
        if framework == "huggingface":
            # The newest PyTorch that the image has with these transformers.
            torch = max(name for name in rows[wanted] if name.startswith("pytorch"))
            more = {"base_framework_version": torch, "instance_type": ask["instance_type"]}
        elif ask["kind"] == "neuron":
            more = {"inference_tool": "neuronx"}  # the published tag names the tool, not the chip
        uri = image_uris.retrieve(framework, ask["region"], version=wanted, image_scope="inference", **more)
    except REFUSALS as error:
        return {"refused": str(error)}
    return {"uri": uri}


def table(framework: str) -> dict[str, Any]:
    """The SDK's own table of an image's versions."""
    rows: dict[str, Any] = image_uris.config_for_framework(framework)
    versions: dict[str, Any] = rows.get("inference", rows)["versions"]
    return versions


def model(ask: dict[str, Any]) -> dict[str, Any]:
    """What a JumpStart model is hosted with, or ``refused`` with the SDK's words."""
    region, wanted = ask["region"], ask["version"] or "*"
    if region not in JUMPSTART_REGION_NAME_SET:
        return {"refused": f"JumpStart is not in {region}"}
    name = {"model_id": ask["model_id"], "model_version": wanted, "region": region}
    try:
        specs = JumpStartModelsAccessor.get_model_specs(
            region=region, model_id=ask["model_id"], version=wanted, s3_client=boto3.client("s3", region_name=region)
        )
        kind = ask["instance_type"] or instance_types.retrieve_default(scope="inference", **name)
        found = {
            "version": specs.version,
            "instance_type": kind,
            "image": image_uris.retrieve(
                None,
                region,
                model_id=ask["model_id"],
                model_version=wanted,
                image_scope="inference",
                instance_type=kind,
            ),
            "files": model_uris.retrieve(model_scope="inference", instance_type=kind, **name),
            "environment": environment_variables.retrieve_default(instance_type=kind, **name),
            "payloads": {alias: each.body for alias, each in (specs.default_payloads or {}).items()},
        }
    except REFUSALS as error:
        return {"refused": str(error)}
    except (ClientError, BotoCoreError) as error:
        return {"unreachable": str(error)}
    return found


def main(job: dict[str, Any]) -> None:
    report = {
        "version": version("sagemaker-core"),
        "images": [image(ask) for ask in job["images"]],
        "models": [model(ask) for ask in job["models"]],
    }
    Path(job["report"]).write_text(json.dumps(report))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
