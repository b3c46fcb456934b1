"""Model folders in S3: uncompressed, under a prefix named by their digest, each file sent once and checked by digest.

SageMaker reads the prefix as it is (ModelDataSource with CompressionType None). S3 checks every request and every part
by its SHA-256 and keeps the object's (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html);
what is there already is told by that, not by its name. The marker ``models/<digest>.json`` comes last and lies beside
the prefix, so it never reaches the container.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from s3transfer.utils import ChunksizeAdjuster

from tasks.adapters.aws_connection import Connection, date_of
from tasks.adapters.protection import UNPROTECTED, Protection
from tasks.adapters.sagemaker_errors import WrongRegion, is_absent, named_errors
from tasks.adapters.store import MANIFEST
from tasks.errors import ArtifactDamaged, RefusedData, RefusedRequest

_FILES = 4  # at once, each in _PARTS parts at once
_PARTS = 4
_PART = 16 << 20  # bytes; more where S3's 10,000 parts would not do
_READ = 1 << 20
_LEFT_SECONDS = 3600  # a multi-part upload that began earlier is no running release's
_TRANSFER = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=_PARTS)


@dataclass(frozen=True)
class Digest:
    """Of one file: its own SHA-256 as hex, and S3's checksum of the object that it becomes (base64)."""

    size: int
    sha256: str
    checksum: str


def upload(connection: Connection, bucket: str, folder: Path, digest: str, protection: Protection = UNPROTECTED) -> str:
    """Bring ``folder`` to ``s3://bucket/models/<digest>/`` and return that uri. Files that are there are not sent;
    parts that a killed upload left are removed.

    Raises:
        RefusedRequest: the bucket does not exist (on the embedded stack it is created), or is not ours.
        WrongRegion: the bucket lies in another region than the endpoints.
        RefusedData: the folder has no files.
        ArtifactDamaged: S3 holds other bytes than were sent.
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
    _abort_left(connection, bucket, prefix)
    with ThreadPoolExecutor(_FILES, thread_name_prefix="upload") as pool:
        sent = {
            name: pool.submit(_send, connection, bucket, prefix + name, path, encrypted) for name, path in files.items()
        }
        listing = {name: {"size": (found := task.result()).size, "sha256": found.sha256} for name, task in sent.items()}
    content = json.dumps(listing, sort_keys=True).encode()
    connection.call("s3", "PutObject", Bucket=bucket, Key=marker, Body=content, **encrypted)
    return f"s3://{bucket}/{prefix}"


def upload_archive(
    connection: Connection, bucket: str, folder: Path, digest: str, protection: Protection = UNPROTECTED
) -> str:
    """Bring ``folder`` to ``s3://bucket/models/<digest>.tar.gz`` and return that uri. One that is there is not sent.

    For batch transform and serverless endpoints, which take nothing else. It is packed beside the temporary files of
    this machine first: S3 wants to know an upload's size.

    Raises:
        RefusedRequest: the bucket does not exist (on the embedded stack it is created), or is not ours.
    """
    _ensure_bucket(connection, bucket)
    key = f"models/{digest}.tar.gz"
    uri = f"s3://{bucket}/{key}"
    try:
        head = connection.call("s3", "HeadObject", Bucket=bucket, Key=key)
    except ClientError as error:
        if not is_absent(error):
            raise
    else:
        if head.get("Metadata", {}).get("digest") == digest:
            return uri
    with tempfile.TemporaryDirectory(prefix="slimline-") as place:
        packed = Path(place) / "model.tar.gz"
        with tarfile.open(packed, "w:gz", compresslevel=1) as archive:  # weights hardly get smaller
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != MANIFEST:
                    archive.add(path, path.relative_to(folder).as_posix())
        with named_errors("s3:PutObject"):
            extra = {"Metadata": {"digest": digest}, **protection.of_upload()}
            connection.s3.upload_file(str(packed), bucket, key, ExtraArgs=extra, Config=_TRANSFER)
    return uri


def digest_of(path: Path) -> Digest:
    """Both digests of a file, read once. Of an object in parts S3's checksum is the SHA-256 of the parts' own."""
    size = path.stat().st_size
    part = ChunksizeAdjuster().adjust_chunksize(_PART, size)
    whole, parts, left = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while block := file.read(min(_READ, left or _READ)):
            if left == 0:
                parts.append(hashlib.sha256())
                left = part
            whole.update(block)
            parts[-1].update(block)
            left -= len(block)
    raw = whole if size < _PART else hashlib.sha256(b"".join(each.digest() for each in parts))
    return Digest(size, whole.hexdigest(), base64.b64encode(raw.digest()).decode())


def _send(connection: Connection, bucket: str, key: str, path: Path, more: dict[str, Any]) -> Digest:
    mine = digest_of(path)
    if _there(connection, bucket, key) == (mine.size, mine.checksum):
        return mine
    extra = {"Metadata": {"sha256": mine.sha256}, "ChecksumAlgorithm": "SHA256", **more}
    with named_errors("s3:PutObject"):
        connection.s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Config=_TRANSFER)
    there = _there(connection, bucket, key)
    if there != (mine.size, mine.checksum):
        raise ArtifactDamaged(
            f"S3 holds other bytes than {path.name} has", observed=f"s3://{bucket}/{key}: {there}",
            limit=f"{mine.size} bytes, SHA-256 checksum {mine.checksum}",
            remedy="see whether something else writes to this bucket, and release again: the file is then sent anew",
        )  # fmt: skip
    return mine


def _there(connection: Connection, bucket: str, key: str) -> tuple[int, str] | None:
    """Size and checksum of an object; none where there is no object. Without a checksum it counts as another one."""
    try:
        head = connection.call("s3", "HeadObject", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if not is_absent(error):
            raise
        return None
    # AWS writes the number of parts behind it: <checksum>-<parts>.
    return head["ContentLength"], head.get("ChecksumSHA256", "").partition("-")[0]


def _abort_left(connection: Connection, bucket: str, prefix: str) -> None:
    """Remove the parts of uploads that were killed: S3 keeps, and bills, them for ever."""
    found = connection.call("s3", "ListMultipartUploads", Bucket=bucket, Prefix=prefix)
    for each in found.get("Uploads", []):
        if date_of(found) - each["Initiated"].timestamp() > _LEFT_SECONDS:
            try:
                connection.call("s3", "AbortMultipartUpload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
            except ClientError as error:
                if not is_absent(error):
                    raise


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
