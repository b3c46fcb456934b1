"""What a batch transform asks of SageMaker, as plain values, and what would be refused of it.

Sources: CreateTransformJob and ContainerDefinition in the API reference, "Batch transform" in the developer guide. The
names come from content: the same version on the same objects is the same job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.adapters.inference_kinds import ARCHIVE, model_data
from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.sagemaker_names import tags_of
from tasks.batch_plan import BatchPlan, InputObject
from tasks.contracts import ModelPackage
from tasks.errors import RefusedRequest

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import CreateModelInputTypeDef, CreateTransformJobRequestTypeDef

MOST_ATTEMPTS = 99
_MOST_MB = 100  # MaxPayloadInMB × MaxConcurrentTransforms
_OWN_IMAGE = "slimline-inference"


def batch_name(package: ModelPackage, plan: BatchPlan, objects: Sequence[InputObject], role_arn: str) -> str:
    """Of the model and of the first attempt's job."""
    asked = plan.model_dump(mode="json", exclude={"patience_seconds", "serve"})
    seen = [(each.key, each.etag, each.size) for each in objects]
    content = json.dumps([package.digest, package.image, role_arn, asked, seen], sort_keys=True)
    return f"slimline-batch-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def attempt_name(name: str, attempt: int) -> str:
    """A job's name can be used once, also after it has failed."""
    return name if attempt == 1 else f"{name}-{attempt}"


def batch_model(
    name: str, package: ModelPackage, role_arn: str, environment: Mapping[str, str], run: str
) -> CreateModelInputTypeDef:
    container = {"Image": package.image, **model_data(package.s3_uri), "Environment": dict(environment)}
    request: Any = {
        "ModelName": name,
        "PrimaryContainer": container,
        "ExecutionRoleArn": role_arn,
        "EnableNetworkIsolation": False,
        "Tags": _tags(package, run),
    }
    return request  # type: ignore[no-any-return]


def transform_job(
    name: str, model: str, package: ModelPackage, plan: BatchPlan, run: str
) -> CreateTransformJobRequestTypeDef:
    """JSON lines in, JSON lines out, in the order of the input."""
    return {
        "TransformJobName": name,
        "ModelName": model,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": plan.input}},
            "ContentType": "application/json" if plan.strategy == "SingleRecord" else "application/jsonlines",
            "SplitType": "Line",
        },
        "TransformOutput": {"S3OutputPath": plan.output, "Accept": "application/json", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": plan.instance_type, "InstanceCount": plan.instances},  # type: ignore[typeddict-item]
        "BatchStrategy": plan.strategy,
        "MaxPayloadInMB": plan.max_payload_mb,
        "MaxConcurrentTransforms": plan.concurrent,
        "ModelClientConfig": {
            "InvocationsTimeoutInSeconds": plan.timeout_seconds,
            "InvocationsMaxRetries": plan.retries,
        },
        "Tags": _tags(package, run),
    }


def output_uri(plan: BatchPlan, key: str) -> str:
    """Where SageMaker writes the answers of one object: its name below the input's folder, with ``.out``."""
    prefix = split_uri(plan.input)[1]
    below = key.removeprefix(prefix[: prefix.rfind("/") + 1])
    return f"{plan.output.rstrip('/')}/{below}.out"


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, key) of s3://bucket/key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def check_batch(plan: BatchPlan, package: ModelPackage, role_arn: str) -> None:
    """Every rule across fields, then every request against the service model.

    Raises:
        RefusedRequest: with the field, what it holds, its limit, and what to change.
    """
    if plan.max_payload_mb * plan.concurrent > _MOST_MB:
        raise RefusedRequest(
            "the requests under way at an instance are too large together",
            observed=f"{plan.concurrent} requests of {plan.max_payload_mb} MB",
            limit=f"max_payload_mb × concurrent ≤ {_MOST_MB} MB",
            remedy="lower batch.max_payload_mb or batch.concurrent",
        )
    if f"{plan.output.rstrip('/')}/".startswith(plan.input):
        raise RefusedRequest(
            "the answers would lie below the input's prefix, and the next run would read them as records",
            observed=f"input {plan.input}, output {plan.output}", limit="an output outside the input's prefix",
            remedy="choose another batch.output, or end batch.input with a folder of its own",
        )  # fmt: skip
    if plan.strategy == "MultiRecord" and _OWN_IMAGE in package.image:
        raise RefusedRequest(
            "Slimline's container reads one record a request", observed="batch.strategy = MultiRecord",
            limit="SingleRecord with this image",
            remedy="set batch.strategy to SingleRecord; raise batch.concurrent for more at a time",
        )  # fmt: skip
    if not package.s3_uri.endswith(ARCHIVE):
        raise RefusedRequest(
            "batch transform takes no ModelDataSource", observed=package.s3_uri, limit=f"an archive, *{ARCHIVE}",
            remedy="upload the model as an archive",
        )  # fmt: skip
    check_request("sagemaker", "CreateModel", batch_model("slimline-batch", package, role_arn, {}, ""))
    job = transform_job(attempt_name("slimline-batch", MOST_ATTEMPTS), "slimline-batch", package, plan, "")
    check_request("sagemaker", "CreateTransformJob", job)


def _tags(package: ModelPackage, run: str) -> Any:
    registered = package.registered
    return tags_of(
        {
            "slimline:model": registered.name,
            "slimline:version": registered.version,
            "slimline:digest": package.digest,
            "slimline:flow-run": run,
        }
    )
