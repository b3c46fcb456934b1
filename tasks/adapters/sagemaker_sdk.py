"""AWS's own SageMaker SDK, asked in an environment and a process of its own (see ``engines.py``).

It knows more image versions and regions than a vendored table, and JumpStart's models by their id. Its pins (protobuf
below 7, rich below 15) and its 300 MB stay out of the default install. Image addresses come from tables inside the
package and need no network; JumpStart's come from S3, by boto3's own variables (``AWS_ENDPOINT_URL``, profiles).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.adapters.children import last_lines, run_child
from tasks.adapters.engine_kinds import SCRIPTS, Engine
from tasks.adapters.engines import Environment, find_environment
from tasks.errors import RefusedModel, SlimlineError

SDK = Engine(
    name="sagemaker",
    packages=("sagemaker-core",),
    constraints=SCRIPTS / "sagemaker.txt",
    script=SCRIPTS / "sagemaker_sdk.py",
    check="from sagemaker.core import image_uris, model_uris",
    architectures=(),
    gigabytes=0.3,
    minutes=1,
    variables={"DISABLE_JUMPSTART_LOGGING": "1", "DISABLE_JUMPSTART_TELEMETRY": "1"},
)
KINDS = ("lmi", "huggingface", "neuron", "neuron-vllm")
# Tables need no credentials; looking for an instance's takes seconds anywhere but on EC2.
_OFFLINE = {"AWS_EC2_METADATA_DISABLED": "true"}
SECONDS = 180.0  # imports take three to twenty, a manifest a few


class SdkUnreachable(SlimlineError):
    """S3 did not hand JumpStart's manifest out: no network, no permission, or no such object."""

    transient = True


@dataclass(frozen=True)
class ImageAsk:
    """An image: which of ``KINDS``, where, of which version (empty: the newest), for which instances."""

    kind: str
    region: str
    version: str = ""
    instance_type: str = "ml.m5.xlarge"


@dataclass(frozen=True)
class ModelAsk:
    """A JumpStart model. Empty: the newest version, its own default instance type."""

    model_id: str
    region: str
    version: str = ""
    instance_type: str = ""


@dataclass(frozen=True)
class JumpStartModel:
    """How JumpStart hosts a model: ``files`` is an S3 URI, ``payloads`` are examples by name."""

    model_id: str
    version: str
    instance_type: str
    image: str
    files: str
    environment: Mapping[str, str]
    payloads: Mapping[str, Any]


def sdk_images(environment: Environment, asks: tuple[ImageAsk, ...]) -> tuple[str | None, ...]:
    """The address of each image, none where the SDK knows no such version or region. One process for all.

    Raises:
        SlimlineError: the process failed.
    """
    if unknown := sorted({ask.kind for ask in asks} - set(KINDS)):
        raise ValueError(f"{', '.join(unknown)}: images are {', '.join(KINDS)}")
    answers = _run(environment, "us-east-1", images=[vars(ask) for ask in asks])["images"]
    return tuple(answer.get("uri") for answer in answers)


def sdk_image(
    environment: Environment, kind: str, region: str, version: str, instance_type: str = "ml.m5.xlarge"
) -> str | None:
    """As ``sdk_images``, of one."""
    return sdk_images(environment, (ImageAsk(kind, region, version, instance_type),))[0]


def asker(home: Path) -> Callable[[str, str, str, str], str | None] | None:
    """``sdk_image`` as a question of kind, region, version and instance type; none where the environment is not built:
    nothing is installed because somebody asks for an address.
    """
    environment = find_environment(SDK, home)
    if environment is None:
        return None
    return lambda kind, region, version, instance_type: sdk_image(environment, kind, region, version, instance_type)


def sdk_model(environment: Environment, ask: ModelAsk) -> JumpStartModel:
    """What JumpStart hosts a model with.

    Raises:
        RefusedModel: it has no such model or version, or does not host it on this type or in this region.
        SdkUnreachable: its bucket did not answer.
        SlimlineError: the process failed.
    """
    answer = _run(environment, ask.region, models=[vars(ask)])["models"][0]
    where = f"s3://jumpstart-cache-prod-{ask.region}"
    if "unreachable" in answer:
        raise SdkUnreachable(
            "JumpStart's models cannot be read",
            observed=answer["unreachable"],
            limit=f"{where}/models_manifest.json, which AWS keeps readable",
            remedy="see that this machine reaches S3 with credentials; or name image and files yourself",
        )
    if "refused" in answer:
        raise RefusedModel(
            "JumpStart does not host this model so",
            observed=f"{ask.model_id} {ask.version or 'newest'} in {ask.region}: {answer['refused'][:400]}",
            limit=f"a model of {where}",
            remedy="look the id and the version up: https://sagemaker.readthedocs.io, JumpStart's model table",
        )
    return JumpStartModel(model_id=ask.model_id, **answer)


def _run(
    environment: Environment,
    region: str,
    images: list[dict[str, Any]] | None = None,
    models: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="slimline-sdk-") as name:
        folder = Path(name)
        job, report, log = folder / "job.json", folder / "report.json", folder / "log"
        job.write_text(json.dumps({"images": images or [], "models": models or [], "report": str(report)}))
        run_child(
            [environment.python, "-I", environment.engine.script.absolute(), job],
            what="the SageMaker SDK",
            log=log,
            cwd=folder,
            variables=environment.variables | {"AWS_DEFAULT_REGION": region} | (_OFFLINE if models is None else {}),
            limit_s=SECONDS,
        )
        try:
            said: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SlimlineError(
                "the SageMaker SDK ended without its report",
                observed=f"{error}; it said last: {last_lines(log)}",
                limit="a JSON report",
                remedy="build its environment again: slimline engines --build sagemaker",
            ) from error
    return said
