"""A target as SageMaker's requests say it: the model's container, and what its variant has besides count and type.

The environment of LMI (https://docs.djl.ai/docs/serving/serving/docs/lmi/), of Hugging Face's Neuron container (its
export reads HF_BATCH_SIZE, HF_SEQUENCE_LENGTH, HF_NUM_CORES and HF_AUTO_CAST_TYPE), and of a hub model.
Slimline's own container has nothing of this: its requests, and so its names, stay as they always were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tasks.adapters.images import ami_of
from tasks.adapters.inference_kinds import model_data
from tasks.adapters.instances import instance
from tasks.adapters.memory_need import tensor_parallel
from tasks.contracts import ModelPackage
from tasks.hosted import HubModel
from tasks.plans import ReleasePlan

FOLDER = "/opt/ml/model"  # where SageMaker lays an uncompressed prefix
_DOWNLOAD, _LOAD = 100e6, 200e6  # bytes a second, on the slow side
_EBS = 30  # GB that an instance without local storage has by itself
_ASYNC_IS_DEFAULT = ("0.38.0", "0.36.0", "0.35.0")  # since LMI 17


def container(package: ModelPackage, plan: ReleasePlan, environment: Mapping[str, str]) -> dict[str, Any]:
    """PrimaryContainer of CreateModel. ``environment`` wins over the target's own."""
    return {
        "Image": package.image,
        **_data(package, plan),
        "Environment": variables(package, plan) | dict(environment),
    }


def _data(package: ModelPackage, plan: ReleasePlan) -> dict[str, Any]:
    hub = package.hub
    if hub is None or package.s3_uri != hub.s3_uri:  # a version of ours, and not the hub's weights
        return model_data(package.s3_uri)
    source: dict[str, Any] = {"S3Uri": hub.s3_uri, "S3DataType": hub.data_type, "CompressionType": hub.compression}
    if hub.gated:
        source["ModelAccessConfig"] = {"AcceptEula": plan.target.jumpstart.accept_eula}
    return {"ModelDataSource": {"S3DataSource": source}}


def variables(package: ModelPackage, plan: ReleasePlan) -> dict[str, str]:
    """What the target's container reads from its environment."""
    kind = plan.target.kind
    if kind == "lmi":
        return _lmi(package, plan)
    if kind == "huggingface":
        return {"HF_TASK": "text-generation"}
    if kind == "neuron":
        return _neuron(plan)
    if kind == "jumpstart" and package.hub is not None:
        return package.hub.environment
    return {}


def variant_extras(package: ModelPackage, plan: ReleasePlan) -> dict[str, Any]:
    """Members of ProductionVariant beside name, model, type, count and weight."""
    kind, hub = plan.target.kind, package.hub
    if kind == "own_cpu":
        return {}
    size = package.facts.bytes if package.facts else 0
    found: dict[str, Any] = {
        "ModelDataDownloadTimeoutInSeconds": (hub.download_seconds if hub else 0) or _whole(300 + size / _DOWNLOAD),
        "ContainerStartupHealthCheckTimeoutInSeconds": (hub.startup_seconds if hub else 0) or _startup(plan, size),
    }
    ami = (hub.ami if hub else "") or (ami_of(package.image) if instance(plan.instance_type).device == "gpu" else "")
    if ami:
        found["InferenceAmiVersion"] = ami
    if volume := volume_gb(plan, size, hub):
        found["VolumeSizeInGB"] = volume
    return found


def volume_gb(plan: ReleasePlan, size: int, hub: HubModel | None = None) -> int:
    """VolumeSizeInGB, or 0 where it is left out: on instances with local storage it cannot be chosen, and SageMaker's
    own 30 GB do for a model of up to 10.
    """
    where = instance(plan.instance_type)
    if where.store or where.device == "unknown":
        return 0
    wanted = max(hub.volume_gb if hub else 0, math.ceil(2 * size / 1e9) + 10)
    return min(512, wanted) if wanted > _EBS else 0


def network_isolation(package: ModelPackage) -> bool:
    """Whether the hub asks for a container without a network."""
    return package.hub is not None and package.hub.network_isolation


def _lmi(package: ModelPackage, plan: ReleasePlan) -> dict[str, str]:
    chosen = plan.target.lmi
    shards: int | str = chosen.tensor_parallel
    if not shards:
        count = instance(plan.instance_type).count
        shards = tensor_parallel(package.facts, count) if package.facts and count else "max"
    found = {
        "HF_MODEL_ID": FOLDER,
        "TENSOR_PARALLEL_DEGREE": str(shards),
        "OPTION_DTYPE": chosen.dtype,
        "OPTION_MAX_ROLLING_BATCH_SIZE": str(chosen.concurrency),
    }
    if chosen.max_model_len:
        found["OPTION_MAX_MODEL_LEN"] = str(chosen.max_model_len)
    if chosen.version not in _ASYNC_IS_DEFAULT:
        found |= {
            "OPTION_ROLLING_BATCH": "disable",
            "OPTION_ASYNC_MODE": "true",
            "OPTION_ENTRYPOINT": "djl_python.lmi_vllm.vllm_async_service",
        }
    # No OPTION_QUANTIZE: vLLM reads the format from config.json, and naming one keeps it from its Marlin kernels.
    return found | dict(chosen.options)


def _neuron(plan: ReleasePlan) -> dict[str, str]:
    chosen = plan.target.neuron
    cores = chosen.cores or instance(plan.instance_type).cores or 1
    return {
        "HF_MODEL_ID": FOLDER,
        "HF_TASK": "text-generation",
        "HF_NUM_CORES": str(cores),
        "HF_BATCH_SIZE": str(chosen.batch_size),
        "HF_SEQUENCE_LENGTH": str(chosen.sequence_length),
        "HF_AUTO_CAST_TYPE": chosen.cast,
        "MAX_BATCH_SIZE": str(chosen.batch_size),
        "MAX_INPUT_TOKENS": str(chosen.sequence_length * 7 // 8),
        "MAX_TOTAL_TOKENS": str(chosen.sequence_length),
    }


def _startup(plan: ReleasePlan, size: int) -> int:
    return 3600 if plan.target.kind == "neuron" else _whole(600 + size / _LOAD)


def _whole(seconds: float) -> int:
    """Whole minutes, within SageMaker's 60 to 3600 s."""
    return max(60, min(3600, 60 * math.ceil(seconds / 60)))
