"""What an AWS container would not start with, asked of it here before our own engine takes its place.

Read from the container's environment and the folder that it gets, by the rules of ``tasks.adapters.serve_formats``: an
endpoint that would fail on AWS must not serve here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deployments.local.endpoint_service.wire import Json
from tasks.adapters import serve_formats
from tasks.adapters.images import repository
from tasks.adapters.instances import Instance, instance
from tasks.adapters.model_facts import read_facts
from tasks.adapters.obstacles import Obstacle
from tasks.errors import RefusedModel
from tasks.hosted import ModelFacts

_FOLDER = "/opt/ml/model"
_SHAPES = ("HF_BATCH_SIZE", "HF_SEQUENCE_LENGTH", "HF_NUM_CORES")


class CannotStart(Exception):
    """The container would not become healthy; the text is a FailureReason."""


def check_container(container: Json, instance_type: str, folder: Path) -> None:
    """Raise ``CannotStart`` where the image would not serve the folder on this instance type."""
    image, environment, where = container["Image"], container.get("Environment", {}), instance(instance_type)
    try:
        facts = read_facts(folder)
    except RefusedModel as error:
        raise CannotStart(_said(f"{error.observed}: {error.cause}")) from error
    if model_id := environment.get("HF_MODEL_ID"):
        _require(model_id == _FOLDER, f"HF_MODEL_ID is {model_id}: there is no model hub here, only {_FOLDER}")
    if repository(image) == "djl-inference":
        _lmi(environment, facts, where)
    elif "neuron" in image:
        _neuron(environment, facts, where)
    elif repository(image) == "huggingface-pytorch-inference":
        _require(where.device in ("cpu", "gpu"), f"the image has no code for {where.name}")
        _require(("-gpu-" in image) == (where.device == "gpu"), f"the image is not for {where.name}")
        _require_format(serve_formats.transformers(facts))


def _lmi(environment: Json, facts: ModelFacts, where: Instance) -> None:
    _require(where.device == "gpu", f"vLLM found no GPU on {where.name}")
    shards = environment.get("TENSOR_PARALLEL_DEGREE", "max")
    count = where.count if shards == "max" else int(shards) if shards.isdigit() else 0
    _require(bool(count) or not where.count, f"TENSOR_PARALLEL_DEGREE {shards} is neither a number nor max")
    _require(not where.count or count <= where.count, f"TENSOR_PARALLEL_DEGREE {shards} of {where.count} GPU(s)")
    quantize = environment.get("OPTION_QUANTIZE")
    _require(not (quantize and facts.format != "dense"), f"OPTION_QUANTIZE {quantize} for a {facts.format} folder")
    _require_format(serve_formats.vllm(facts, where, max(1, count), environment.get("OPTION_DTYPE", "auto")))


def _neuron(environment: Json, facts: ModelFacts, where: Instance) -> None:
    _require(where.device == "neuron" and not where.inf1, f"no NeuronCores of the second generation on {where.name}")
    for name in _SHAPES:
        _require(environment.get(name, "").isdigit(), f"{name} is {environment.get(name)!r}, not a number")
    cores = int(environment["HF_NUM_CORES"])
    _require(cores <= (where.cores or cores), f"HF_NUM_CORES {cores} of {where.cores}")
    _require_format(serve_formats.neuron(facts))


def _require_format(found: Iterable[Obstacle]) -> None:
    for each in found:
        _require(each.severity == "warn", f"{each.cause}: {each.observed}")


def _require(good: bool, why: str) -> None:
    if not good:
        raise CannotStart(_said(why))


def _said(why: str) -> str:
    return f"The primary container would not pass the ping health check of SageMaker. ({why})"
