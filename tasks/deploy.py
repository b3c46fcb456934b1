"""Move live traffic onto a registered version, a little at a time, and know how it ended.

SageMaker does the shifting and, on an alarm, the going back (deployment guardrails); so it is safe even when this
process dies. Here the rollout is asked for, watched, and judged by what the endpoint then really serves.
"""

from __future__ import annotations

import hashlib

from tasks.adapters.images import resolve_image
from tasks.adapters.inference_kinds import check_size
from tasks.adapters.instances import instance
from tasks.adapters.model_facts import read_facts
from tasks.adapters.obstacles import require_none
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_sdk import asker
from tasks.adapters.serveability import UNKNOWN, obstacles
from tasks.adapters.store import Store
from tasks.cloud import sagemaker
from tasks.contracts import ModelPackage, ModelRef, RegisteredModel, Rollout, Shift
from tasks.errors import RefusedRequest
from tasks.following import wait_until_serving
from tasks.hosted import HubModel
from tasks.plans import ReleasePlan
from tasks.report_target import report_target
from tasks.retrying import network_task
from tasks.settings import settings


def unregistered(model: ModelRef) -> RegisteredModel:
    """The original, which is not in the registry but must be packaged like a version."""
    return RegisteredModel(name=model.name, version="original", alias="", model=model, run_id="", url="")


def served(registered: RegisteredModel, plan: ReleasePlan) -> ModelRef:
    """Which folder of the version the plan's instances get."""
    if plan.serve == "onnx" and registered.exported is None:
        raise RefusedRequest(
            "the version has no exported folder",
            observed=f"{registered.name} {registered.version}: the compressed folder alone",
            limit="a version that was registered with an export",
            remedy="set plan.serve to auto or torch, or compress again with recipe.cpu_export = onnx",
        )
    ours_on_cpu = plan.target.kind == "own_cpu" and instance(plan.instance_type).device not in ("gpu", "neuron")
    wants_torch = plan.serve == "torch" or (plan.serve == "auto" and not ours_on_cpu)
    return registered.model if wants_torch else registered.exported or registered.model


@network_task("package-{registered.name}-{registered.version}")
def package(registered: RegisteredModel, plan: ReleasePlan) -> ModelPackage:
    """Upload the files that the plan serves to S3, uncompressed, or for a serverless endpoint as one archive; files
    that are there already are not sent again.

    Raises:
        RefusedRequest: the plan asks for the exported folder of a version that has none, or its container cannot serve
            the folder on these instances.
        RefusedModel: it does not fit a serverless endpoint.
    """
    model, cloud = served(registered, plan), sagemaker()
    folder = Store(settings().store).open(model.uri, model.digest)
    check_size(plan, model.bytes)
    upload = cloud.upload_archive if plan.inference == "SERVERLESS" else cloud.upload
    facts, hub = read_facts(folder, model), cloud.hub_model(plan) if plan.target.kind == "jumpstart" else None
    image = image_of(plan, cloud.region, hub)
    report_target(registered, plan, image, require_none(obstacles(facts, plan, image, hub)))
    return ModelPackage(
        registered=registered,
        s3_uri=upload(folder, model.digest),
        image=image,
        digest=model.digest,
        facts=None if plan.target.kind == "own_cpu" else facts,
        hub=hub,
    )


def image_of(plan: ReleasePlan, region: str, hub: HubModel | None) -> str:
    """The container image of the plan's target.

    Raises:
        RefusedRequest: AWS's image is not known for this version and region.
    """
    kind, target = plan.target.kind, plan.target
    if kind == "own_cpu":
        return settings().image
    if kind == "jumpstart":
        return hub.image if hub else ""
    version = {"lmi": target.lmi.version, "huggingface": target.huggingface.version, "neuron": target.neuron.version}
    # The SDK, where its environment is built, may know what the table does not.
    return resolve_image(kind, region, version[kind], plan.instance_type, asker(settings().engines))


@network_task("package-hub-{plan.target.jumpstart.model_id}")
def package_hub(plan: ReleasePlan) -> ModelPackage:
    """The hub's own model as a package: nothing is uploaded, its files are the hub's.

    Raises:
        RefusedModel: the hub has none of this name, or does not say how it is hosted.
        RefusedRequest: its licence is not accepted, or it is not offered on these instances.
    """
    if plan.target.kind != "jumpstart":
        raise RefusedRequest(
            "the plan's target is no hub model", observed=f"plan.target.kind = {plan.target.kind}", limit="jumpstart",
            remedy="set plan.target.kind to jumpstart and name plan.target.jumpstart.model_id",
        )  # fmt: skip
    require_none(obstacles(UNKNOWN, plan))
    hub = sagemaker().hub_model(plan)
    warnings = require_none(obstacles(UNKNOWN, plan, hub.image, hub))
    identity = hashlib.sha256(hub.model_dump_json().encode()).hexdigest()
    model = ModelRef(
        uri=hub.s3_uri, digest=identity, name=hub.model_id, licence=hub.eula or "not stated", architecture="",
        parameters=0, bytes=0, dtype="",
    )  # fmt: skip
    registered = RegisteredModel(name=hub.model_id, version=hub.version, alias="", model=model, run_id="", url="")
    report_target(registered, plan, hub.image, warnings)
    return ModelPackage(registered=registered, s3_uri=hub.s3_uri, image=hub.image, digest=identity, hub=hub)


def first_package(original: ModelRef, plan: ReleasePlan) -> ModelPackage:
    """What an endpoint that does not exist yet serves first: the hub's model, or the original."""
    if plan.target.kind == "jumpstart":
        return package_hub(plan)
    return package(unregistered(original), plan.model_copy(update={"serve": "torch"}))


@network_task("look-{plan.endpoint}")
def is_new(plan: ReleasePlan) -> bool:
    """Whether the endpoint does not exist yet."""
    return sagemaker().serving(plan.endpoint) is None


@network_task("create-{plan.endpoint}")
def create_endpoint(first: ModelPackage, plan: ReleasePlan) -> None:
    """Create the endpoint with its first version, and wait until it serves."""
    cloud = sagemaker()
    cloud.rollouts.create(plan.endpoint, first, plan)
    wait_until_serving(cloud, plan.endpoint)


@network_task("shift-{plan.mode}-{plan.step_percent}%")
def shift(new: ModelPackage, plan: ReleasePlan) -> Shift:
    """Ask for the rollout. Asked twice, it is asked once: names come from what is released, and the endpoint is
    read first.
    """
    return ask_shift(sagemaker(), new, plan)


def ask_shift(cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> Shift:
    """As ``shift``."""
    serving = cloud.serving(plan.endpoint)
    since = cloud.now()
    wanted = cloud.config_name(new, plan)
    if serving is None:
        cloud.rollouts.create(plan.endpoint, new, plan)
        return Shift(endpoint=plan.endpoint, wanted_config=wanted, previous_config=None, since=since)
    # Another run's first version has to serve before anything can move; SageMaker refuses updates while it scales.
    if serving.status == "Creating" or serving.is_resizing:
        wait_until_serving(cloud, plan.endpoint)
    if wanted not in (serving.pending_config, serving.config):
        cloud.rollouts.update(plan.endpoint, new, plan)
        return Shift(endpoint=plan.endpoint, wanted_config=wanted, previous_config=serving.config, since=since)
    return asked_before(cloud, plan.endpoint, wanted, serving.config)


def asked_before(cloud: SageMaker, endpoint: str, wanted: str, serves: str) -> Shift:
    """The move to ``wanted`` as it began: it serves, or is on its way. Where a dead run of this very release has asked
    for it, that run wrote when, and what served before.
    """
    history = cloud.history(endpoint)
    began, before = history.since, serves
    if not history.releases(wanted):
        began = None
    elif serves == wanted:
        before = history.moving_from or wanted
    since = cloud.now() if began is None else began
    return Shift(endpoint=endpoint, wanted_config=wanted, previous_config=before, since=since)


@network_task("tidy-{rollout.endpoint}")
def tidy(rollout: Rollout) -> None:
    """Remove the rollout's alarms, and every model and config of this endpoint that it does not use, but
    the previous one; then write on the endpoint that the release has ended.

    What a run that died has left is in the ledger too, and goes with it.
    """
    cloud = sagemaker()
    if rollout.asked_config:
        cloud.remove_alarms(rollout.asked_config)
    previous = cloud.history(rollout.endpoint).previous
    if rollout.phase == "promoted" and rollout.previous_config != rollout.config:
        previous = rollout.previous_config
    if rollout.phase != "unchanged":  # then the previous config may not be known, and nothing was made
        cloud.sweep(rollout.endpoint, keep={config for config in (previous, rollout.previous_config) if config})
        cloud.close(rollout.endpoint, previous)


def endpoint_page(endpoint: str) -> str | None:
    """The embedded stack's page of this endpoint; on AWS the console is the page."""
    url = settings().aws_endpoint_url
    if url:
        return f"{url}/_slimline/"
    region = settings().region
    if region is None:  # only the profile names it
        return None
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/endpoints/{endpoint}"
