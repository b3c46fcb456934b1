"""Model folders in S3: uncompressed, under a prefix named by their digest, each file sent once.

SageMaker reads the prefix as it is (ModelDataSource with CompressionType None). Every object carries its SHA-256 as
metadata; the marker ``models/<digest>.json`` comes last and lies beside the prefix, so it never reaches the container.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.protection import UNPROTECTED, Protection
from tasks.adapters.sagemaker_errors import WrongRegion, is_absent, named_errors
from tasks.adapters.store import MANIFEST, sha256
from tasks.errors import RefusedData, RefusedRequest

_THREADS = 4
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=4)


def upload(connection: Connection, bucket: str, folder: Path, digest: str, protection: Protection = UNPROTECTED) -> str:
    """Bring ``folder`` to ``s3://bucket/models/<digest>/`` and return that uri. Files that are there are not sent.

    Raises:
        RefusedRequest: the bucket does not exist (on the embedded stack it is created), or is not ours.
        WrongRegion: the bucket lies in another region than the endpoints.
        RefusedData: the folder has no files.
    """
    _ensure_bucket(connection, bucket)
    prefix, marker = f"models/{digest}/", f"models/{digest}.json"
    encrypted = protection.of_upload()
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    if not files:
        raise RefusedData("the model folder is empty", observed="0 files", limit="at least 1", remedy="make it again")
    listing = {name: {"size": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="upload") as pool:
        sent = [
            pool.submit(_send, connection, bucket, prefix + name, path, str(listing[name]["sha256"]), encrypted)
            for name, path in files.items()
        ]
        for task in sent:
            task.result()
    content = json.dumps(listing, sort_keys=True).encode()
    connection.call("s3", "PutObject", Bucket=bucket, Key=marker, Body=content, **encrypted)
    return f"s3://{bucket}/{prefix}"


def _send(connection: Connection, bucket: str, key: str, path: Path, digest: str, more: dict[str, Any]) -> None:
    try:
        head = connection.call("s3", "HeadObject", Bucket=bucket, Key=key)
    except ClientError as error:
        if not is_absent(error):
            raise
    else:
        if head["ContentLength"] == path.stat().st_size and head.get("Metadata", {}).get("sha256") == digest:
            return
    with named_errors("s3:PutObject"):
        extra = {"Metadata": {"sha256": digest}, **more}
        connection.s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Config=_TRANSFER)


def _ensure_bucket(connection: Connection, bucket: str) -> None:
    try:
        found = connection.call("s3", "HeadBucket", Bucket=bucket)
    except ClientError as error:
        if not is_absent(error):
            raise
        if connection.rehearsal_speed is None:
            raise RefusedRequest(
                "the bucket of the model packages does not exist", observed=bucket, limit="a bucket in this region",
                remedy="create it (deployments/aws/README.md says how), or set SLIMLINE_BUCKET to one that you have",
            ) from error  # fmt: skip
        extra: dict[str, Any] = {}
        if connection.region != "us-east-1":
            extra = {"CreateBucketConfiguration": {"LocationConstraint": connection.region}}
        connection.call("s3", "CreateBucket", Bucket=bucket, **extra)
        return
    there = found.get("BucketRegion", connection.region)
    if there != connection.region and connection.rehearsal_speed is None:
        raise WrongRegion(  # boto3 would follow the bucket there; SageMaker reads models of its own region only
            "the bucket of the model packages lies in another region than the endpoint", observed=f"{bucket}: {there}",
            limit=f"a bucket in {connection.region}",
            remedy=f"set SLIMLINE_BUCKET to a bucket in {connection.region}, or AWS_REGION={there}",
        )  # fmt: skip
