"""Every request that a release of one target by one mode sends, in order, as the golden files keep them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tasks.adapters.hub_models import hosted
from tasks.adapters.sagemaker_requests import alarms, blueprint, create_endpoint, update_endpoint
from tasks.adapters.sagemaker_trials import replace, trial_config, weights
from tasks.contracts import ModelPackage
from tasks.deploy import image_of
from tasks.hosted import HubModel, ModelFacts
from tasks.plans import Mode, Rehearsal, ReleasePlan
from tasks.targets import JumpStart, Kind, Target
from tests.adapters.packages import ECR_IMAGE, ROLE, package

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden" / "requests"
HUB_DOCUMENT = ROOT / "deployments/local/endpoint_service/hub_documents/stand-in-textgeneration.json"
CASES: list[tuple[Kind, Mode]] = [(kind, mode) for kind in get_args(Kind) for mode in get_args(Mode)]
INSTANCES: dict[Kind, str] = {
    "own_cpu": "ml.m5.xlarge", "lmi": "ml.g5.12xlarge", "huggingface": "ml.g5.xlarge", "neuron": "ml.inf2.xlarge",
    "jumpstart": "ml.g5.xlarge",
}  # fmt: skip
REGION, BUCKET = "us-east-1", "slimline-models"
# Llama 3.1 8B: 4 bits by GPTQ for vLLM; dense for the containers that read nothing else.
_SHAPE = {
    "parameters": 8_030_261_248, "dtype": "bfloat16", "layers": 32, "hidden": 4096, "intermediate": 14_336, "heads": 32,
    "kv_heads": 8, "head_dim": 128, "context": 131_072,
}  # fmt: skip
PACKED = ModelFacts(format="compressed-tensors", bytes=5_736_000_000, bits=(4.0,), group_sizes=(128,), **_SHAPE)
DENSE = ModelFacts(format="dense", bytes=16_060_556_376, **_SHAPE)
UNUSED = ModelFacts(format="dense")  # of our own container, whose requests do not depend on the folder


@dataclass(frozen=True)
class Sent:
    """One call of boto3."""

    service: str
    operation: str
    request: Any


def plan(kind: Kind, mode: Mode, **changes: Any) -> ReleasePlan:
    target = Target(kind=kind, jumpstart=JumpStart(model_id="stand-in-textgeneration", accept_eula=True))
    chosen = ReleasePlan(
        endpoint="slimline-golden", target=target, mode=mode, instance_type=INSTANCES[kind], instances=4,
        step_percent=25, rehearsal=Rehearsal(requests_per_second=0),
    )  # fmt: skip
    return chosen.model_copy(update=changes)


def hub(instance_type: str) -> HubModel:
    found = json.loads(HUB_DOCUMENT.read_text().replace("REGION", REGION))
    return hosted("stand-in-textgeneration", found["version"], found["document"], instance_type)


def facts(kind: Kind) -> ModelFacts | None:
    return None if kind == "own_cpu" else PACKED if kind in ("lmi", "jumpstart") else DENSE


def packaged(chosen: ReleasePlan) -> ModelPackage:
    kind = chosen.target.kind
    model = hub(chosen.instance_type) if kind == "jumpstart" else None
    image = ECR_IMAGE if kind == "own_cpu" else image_of(chosen, REGION, model)
    return package("7", image).model_copy(update={"facts": facts(kind), "hub": model})


def requests(kind: Kind, mode: Mode) -> list[Sent]:
    """First version (of jumpstart the hub's own), then the move to version 7."""
    chosen = plan(kind, mode)
    new = packaged(chosen)
    made = blueprint(new, chosen, ROLE, {})
    before = package(new.hub.version if new.hub else "6", new.image, new.hub.s3_uri if new.hub else None)
    known = {"facts": None, "hub": new.hub} if new.hub else {"facts": new.facts}
    old = blueprint(before.model_copy(update=known), chosen, ROLE, {})
    sent = [
        Sent("sagemaker", "CreateModel", old.model),
        Sent("sagemaker", "CreateEndpointConfig", old.config),
        Sent("sagemaker", "CreateEndpoint", create_endpoint(chosen.endpoint, old)),
        Sent("sagemaker", "CreateModel", made.model),
        Sent("sagemaker", "CreateEndpointConfig", made.config),
    ]
    if not chosen.on_trial:
        sent += [Sent("cloudwatch", "PutMetricAlarm", each) for each in alarms(chosen.endpoint, made.name, chosen)]
        sent.append(
            Sent("sagemaker", "UpdateEndpoint", update_endpoint(chosen.endpoint, made.name, chosen, retain=False))
        )
        return sent
    serving: Any = old.config["ProductionVariants"][0]
    trial = trial_config(made, serving, old.name, chosen.instances, chosen, BUCKET)
    sent.append(Sent("sagemaker", "CreateEndpointConfig", trial))
    sent.append(Sent("sagemaker", "UpdateEndpoint", replace(chosen.endpoint, trial["EndpointConfigName"])))
    for percent in chosen.shares if mode != "SHADOW" else ():
        sent.append(Sent("sagemaker", "UpdateEndpointWeightsAndCapacities", weights(chosen.endpoint, percent)))
    if mode != "SHADOW":
        return [*sent, Sent("sagemaker", "UpdateEndpoint", replace(chosen.endpoint, made.name))]
    after = chosen.after_shadow
    sent += [Sent("cloudwatch", "PutMetricAlarm", each) for each in alarms(chosen.endpoint, made.name, after)]
    return [
        *sent,
        Sent("sagemaker", "UpdateEndpoint", update_endpoint(chosen.endpoint, made.name, after, retain=False)),
    ]


def text(sent: list[Sent]) -> str:
    rows = [{"service": each.service, "operation": each.operation, "request": each.request} for each in sent]
    return json.dumps(rows, indent=1) + "\n"


def path(kind: Kind, mode: Mode) -> Path:
    return FOLDER / f"{kind}-{mode.lower()}.json"
