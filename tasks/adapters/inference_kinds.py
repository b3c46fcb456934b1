"""Real-time, asynchronous and serverless endpoints: what their configs hold, and which releases SageMaker allows them.

Sources, all in the SageMaker developer guide: "Deployment guardrails" and its "Exclusions" (real-time and asynchronous
endpoints only), "Shadow tests: Exclusions" (neither asynchronous nor serverless), "Serverless Inference: Feature
exclusions" (no GPU, no several variants, no data capture), "Create an asynchronous inference endpoint".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasks.errors import RefusedModel, RefusedRequest
from tasks.plans import ReleasePlan
from tasks.scaling_plan import Inference

ARCHIVE = ".tar.gz"  # a package that ends so is one object, which ModelDataUrl names
SERVERLESS_DISK_MB = 5120  # "the ephemeral disk storage is 5 GB"
_GUARDED = ("CANARY", "LINEAR", "ALL_AT_ONCE", "ROLLING")
_ACCELERATED = re.compile(r"ml\.(g|p|inf|trn)\d")


def capacity(plan: ReleasePlan) -> dict[str, Any]:
    """What a production variant runs on."""
    if plan.inference != "SERVERLESS":
        return {"InitialInstanceCount": plan.instances, "InstanceType": plan.instance_type}
    config: dict[str, Any] = {
        "MemorySizeInMB": plan.serverless.memory_mb,
        "MaxConcurrency": plan.serverless.max_concurrency,
    }
    if plan.serverless.provisioned:
        config["ProvisionedConcurrency"] = plan.serverless.provisioned
    return {"ServerlessConfig": config}


def queue(plan: ReleasePlan, bucket: str) -> dict[str, Any]:
    """AsyncInferenceConfig of an ASYNC plan; nothing of others. ``bucket``: that of the models."""
    if plan.inference != "ASYNC":
        return {}
    wanted = plan.asynchronous
    base = (wanted.output or f"s3://{bucket}/async/{plan.endpoint}").rstrip("/")
    output: dict[str, Any] = {"S3OutputPath": f"{base}/answers", "S3FailurePath": f"{base}/failures"}
    topics = {"SuccessTopic": wanted.success_topic, "ErrorTopic": wanted.error_topic}
    if any(topics.values()):
        output["NotificationConfig"] = {name: topic for name, topic in topics.items() if topic}
    client = {"ClientConfig": {"MaxConcurrentInvocationsPerInstance": wanted.max_concurrent}}
    return {"AsyncInferenceConfig": {"OutputConfig": output, **(client if wanted.max_concurrent else {})}}


def model_data(s3_uri: str) -> dict[str, Any]:
    """Where a container's model is. Batch transform and serverless endpoints take an archive only: the API reference
    says so of ModelDataSource.
    """
    if s3_uri.endswith(ARCHIVE):
        return {"ModelDataUrl": s3_uri}
    source = {"S3Uri": s3_uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
    return {"ModelDataSource": {"S3DataSource": source}}


def kind_of(seen: Mapping[str, Any]) -> Inference:
    """Of an endpoint, by its DescribeEndpoint answer."""
    if seen.get("AsyncInferenceConfig"):
        return "ASYNC"
    serverless = any(each.get("CurrentServerlessConfig") for each in seen.get("ProductionVariants", []))
    return "SERVERLESS" if serverless else "REAL_TIME"


def check_inference(plan: ReleasePlan, *, rehearsed: bool) -> None:
    """Refuse what the plan's kind of inference does not allow.

    Args:
        rehearsed: On the embedded stack, which lacks some of what AWS has.

    Raises:
        RefusedRequest: with cause and remedy.
    """
    if plan.inference == "ASYNC":
        _check_async(plan, rehearsed)
    elif plan.inference == "SERVERLESS":
        _check_serverless(plan, rehearsed)


def _check_async(plan: ReleasePlan, rehearsed: bool) -> None:
    if plan.mode not in _GUARDED:
        why = (
            "SageMaker has no shadow variants for asynchronous endpoints"
            if plan.mode == "SHADOW"
            else "asynchronous requests name no variant, and nothing says how SageMaker parts its queue between two"
        )
        raise RefusedRequest(
            why, observed=f"plan.mode = {plan.mode}, plan.inference = ASYNC", limit=", ".join(_GUARDED),
            remedy="set plan.mode to CANARY: guardrails work with asynchronous endpoints",
        )  # fmt: skip
    output = plan.asynchronous.output
    if output and not output.startswith("s3://"):
        raise RefusedRequest(
            "answers go to S3", observed=f"plan.asynchronous.output = {output}", limit="s3://bucket/prefix",
            remedy="mend it, or leave it empty for the bucket of the models",
        )  # fmt: skip
    if not rehearsed:
        return
    if plan.asynchronous.success_topic or plan.asynchronous.error_topic:
        raise _not_rehearsed("notifications by SNS", "plan.asynchronous.*_topic", "leave both topics empty")
    if plan.scaling.acts and plan.scaling.min_instances == 0:
        raise _not_rehearsed("no instance at all", "plan.scaling.min_instances = 0", "set it to 1 for the rehearsal")


def _check_serverless(plan: ReleasePlan, rehearsed: bool) -> None:
    if plan.mode != "ALL_AT_ONCE":
        raise RefusedRequest(
            "guardrails, several variants and shadow variants are for endpoints with instances",
            observed=f"plan.mode = {plan.mode}, plan.inference = SERVERLESS",
            limit="ALL_AT_ONCE: UpdateEndpoint without a DeploymentConfig, judged afterwards",
            remedy="set plan.mode to ALL_AT_ONCE, or plan.inference to REAL_TIME",
        )
    if _ACCELERATED.match(plan.instance_type):
        raise RefusedRequest(
            "serverless endpoints have no GPU and no other accelerator",
            observed=f"plan.instance_type = {plan.instance_type}", limit="a CPU",
            remedy="set plan.inference to REAL_TIME or ASYNC, or plan.instance_type to a CPU's: it is not used",
        )  # fmt: skip
    if plan.serverless.provisioned > plan.serverless.max_concurrency:
        raise RefusedRequest(
            "provisioned concurrency is a part of the endpoint's concurrency",
            observed=f"plan.serverless.provisioned = {plan.serverless.provisioned}",
            limit=f"plan.serverless.max_concurrency = {plan.serverless.max_concurrency}",
            remedy="raise plan.serverless.max_concurrency",
        )
    if rehearsed:
        raise _not_rehearsed(
            "serverless endpoints", "plan.inference = SERVERLESS",
            "set plan.inference to REAL_TIME here; the requests for AWS are in tests/adapters/requests",
        )  # fmt: skip


def check_size(plan: ReleasePlan, size: int) -> None:
    """Whether a model of ``size`` bytes fits a serverless endpoint: it is unpacked on its disk and read into memory.

    Raises:
        RefusedModel: it does not.
    """
    limit = min(plan.serverless.memory_mb, SERVERLESS_DISK_MB)
    if plan.inference == "SERVERLESS" and size > limit << 20:
        raise RefusedModel(
            "the model does not fit a serverless endpoint", observed=f"{size / (1 << 20):,.0f} MB",
            limit=f"{limit:,} MB: the memory of a request, and {SERVERLESS_DISK_MB:,} MB of disk",
            remedy="raise plan.serverless.memory_mb (6144 at most), compress more, or set plan.inference to REAL_TIME",
        )  # fmt: skip


def check_kind(plan: ReleasePlan, now: Inference) -> None:
    """An endpoint stays of its kind: the developer guide forbids the way to serverless and names none between the
    others.

    Raises:
        RefusedRequest: the plan wants another one.
    """
    if plan.inference != now:
        raise RefusedRequest(
            "an endpoint keeps its kind of inference",
            observed=f"{plan.endpoint} is {now}, the plan says {plan.inference}", limit="the same kind",
            remedy=f"release to a new endpoint, or set plan.inference to {now}",
        )  # fmt: skip


def _not_rehearsed(what: str, observed: str, remedy: str) -> RefusedRequest:
    return RefusedRequest(
        f"the embedded endpoint service has no {what}: this works on AWS only", observed=observed,
        limit="what docs/endpoint-service.md lists", remedy=remedy,
    )  # fmt: skip
