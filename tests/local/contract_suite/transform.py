"""Batch transform jobs."""

from __future__ import annotations

from typing import Any

from tests.local.contract_suite.world import Row, World

SERVICE = "sagemaker"


def job(world: World, **change: Any) -> dict[str, Any]:
    """A job on a prefix without objects: it fails by itself."""
    data = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://contract/none/"}}
    return {
        "TransformJobName": world.name("job"),
        "ModelName": world.model,
        "TransformInput": {"DataSource": data, "ContentType": "text/plain", "SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": "s3://contract/out", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        "MaxPayloadInMB": 1,
        "BatchStrategy": "MultiRecord",
    } | change


def running(world: World) -> dict[str, Any]:
    request = job(world)
    world.deck.sagemaker.create_transform_job(**request)
    return {"TransformJobName": request["TransformJobName"]}


def absent(world: World) -> dict[str, Any]:
    return {"TransformJobName": "absent"}


ROWS = [
    Row(SERVICE, "CreateTransformJob", job),
    Row(SERVICE, "CreateTransformJob", lambda w: job(w, ModelName="absent"), "ValidationException", 400),
    Row(SERVICE, "CreateTransformJob", lambda w: job(w, BatchStrategy="Each"), "ValidationException", 400, model=False),
    Row(SERVICE, "CreateTransformJob", lambda w: job(w, **running(w)), "ResourceInUse", 400),
    Row(SERVICE, "DescribeTransformJob", running),
    Row(SERVICE, "DescribeTransformJob", absent, "ValidationException", 400),
    Row(SERVICE, "ListTransformJobs", lambda w: {"NameContains": "contract", "SortBy": "CreationTime"}),
    Row(SERVICE, "ListTransformJobs", lambda w: {"MaxResults": 0}, "ValidationException", 400, model=False),
    Row(SERVICE, "StopTransformJob", running),
    Row(SERVICE, "StopTransformJob", absent, "ValidationException", 400),
]
