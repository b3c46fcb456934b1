"""Models of SageMaker's public hub (JumpStart), by the hub API: DescribeHubContent's document → what is hosted.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeHubContent.html; the document's fields are those
that the SageMaker SDK reads (sagemaker-core, jumpstart/hub/interfaces.py, schema 2.3.0). Its configurations (vLLM, TGI)
are taken in the order of InferenceConfigRankings; where there is none, the document's own fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_errors import error_of
from tasks.errors import RefusedModel
from tasks.hosted import HubModel

PUBLIC_HUB = "SageMakerPublicHub"


def describe(aws: Connection, model_id: str, version: str, instance_type: str) -> HubModel:
    """The model as the hub hosts it on ``instance_type``. ``version``: empty for the newest.

    Raises:
        RefusedModel: there is none of this name and version, or its document names no image or no files.
    """
    asked: dict[str, Any] = {"HubName": PUBLIC_HUB, "HubContentType": "Model", "HubContentName": model_id}
    if version:
        asked["HubContentVersion"] = version
    try:
        found = aws.call("sagemaker", "DescribeHubContent", **asked)
    except ClientError as error:
        code, message = error_of(error)
        if code != "ResourceNotFound":
            raise
        raise RefusedModel(
            "SageMaker's public hub has no such model", observed=f"{model_id} {version}: {message}",
            limit="a HubContentName and HubContentVersion", remedy="look it up: aws sagemaker list-hub-contents "
            f"--hub-name {PUBLIC_HUB} --hub-content-type Model",
        ) from error  # fmt: skip
    return hosted(model_id, found["HubContentVersion"], json.loads(found["HubContentDocument"]), instance_type)


def hosted(model_id: str, version: str, document: Mapping[str, Any], instance_type: str) -> HubModel:
    """The document for one instance type.

    Raises:
        RefusedModel: it names no image or no files, or hosts by a script that is no part of the image.
    """
    merged = {**document, **_component(document)}
    properties = _variant(merged, instance_type)
    image = properties.get("ImageUri") or merged.get("HostingEcrUri")
    files = merged.get("HostingPrepackedArtifactUri") or merged.get("HostingArtifactUri")
    if not image or not files:
        raise RefusedModel(
            f"the hub's document of {model_id} {version} does not say how it is hosted on {instance_type}",
            observed=f"image {image}, files {files}", limit="HostingEcrUri (or an image of the instance's family) and "
            "HostingArtifactUri", remedy="choose an instance type of SupportedInferenceInstanceTypes, or another model",
        )  # fmt: skip
    if merged.get("HostingUseScriptUri") and not merged.get("HostingPrepackedArtifactUri"):
        raise RefusedModel(
            f"{model_id} is hosted by a script that is packed beside its weights", observed="HostingUseScriptUri",
            limit="a model whose image serves the files as they are", remedy="choose a newer version of the model",
        )  # fmt: skip
    environment = {each["Name"]: str(each["Default"]) for each in merged.get("InferenceEnvironmentVariables", [])}
    environment |= {name: str(value) for name, value in properties.get("EnvironmentVariables", {}).items()}
    packed = str(files).endswith(".tar.gz")
    return HubModel(
        model_id=model_id,
        version=version,
        image=image,
        s3_uri=files,
        data_type="S3Object" if packed else "S3Prefix",
        compression="Gzip" if packed else "None",
        environment=environment,
        instance_types=tuple(merged.get("SupportedInferenceInstanceTypes") or ()),
        gated=bool(merged.get("GatedBucket") or merged.get("HostingEulaUri")),
        eula=merged.get("HostingEulaUri") or "",
        network_isolation=bool(merged.get("InferenceEnableNetworkIsolation")),
        volume_gb=int(merged.get("InferenceVolumeSize") or 0),
        ami=merged.get("InferenceAmiVersion") or "",
        download_seconds=int(merged.get("ModelDataDownloadTimeout") or 0),
        startup_seconds=int(merged.get("ContainerStartupHealthCheckTimeout") or 0),
    )


def _component(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the configuration that the hub ranks first, or none."""
    configs, components = document.get("InferenceConfigs") or {}, document.get("InferenceConfigComponents") or {}
    rankings = (document.get("InferenceConfigRankings") or {}).get("overall") or {}
    order = [*(rankings.get("Rankings") or ()), *configs]
    name = next((each for each in order if each in configs), None)
    merged: dict[str, Any] = {}
    for part in configs.get(name, {}).get("ComponentNames", ()):
        merged |= components.get(part, {})
    return merged


def _variant(document: Mapping[str, Any], instance_type: str) -> Mapping[str, Any]:
    """What the document says of the instance type's family, and of the type itself, which wins."""
    table = document.get("HostingInstanceTypeVariants") or {}
    variants, aliases = table.get("Variants") or {}, table.get("Aliases") or {}
    family = instance_type.removeprefix("ml.").partition(".")[0]
    merged: dict[str, Any] = {}
    for name in (family, instance_type):
        merged |= (variants.get(name) or {}).get("Properties") or {}
    image = merged.get("ImageUri", "")
    if image.startswith("$"):
        merged["ImageUri"] = aliases.get(image[1:])
    return merged
