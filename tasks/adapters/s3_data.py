"""Files below an S3 prefix, brought here once by their ETag.

Any caller's bucket: the role needs ``s3:ListBucket`` and ``s3:GetObject`` on it.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.documents import Reading
from tasks.adapters.records import ACCEPTED, format_of
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.texts import Text, refused_source, text_of_files

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class _Object(NamedTuple):
    key: str
    etag: str


def s3_place(source: str) -> tuple[str, str]:
    """(bucket, prefix) of ``s3://bucket/prefix``.

    Raises:
        RefusedData: it is no such address.
    """
    parts = urlsplit(source)
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise refused_source(source, "no bucket's name, or more than a prefix behind it", "s3://bucket/prefix")
    return parts.netloc, parts.path.lstrip("/")


def check_s3(source: str, aws: Connection) -> None:
    """Refuse a prefix with nothing to read below it, by listing it.

    Raises:
        RefusedData: with what is there.
    """
    _objects(source, aws)


def read_s3(source: str, aws: Connection, downloads: Path, reading: Reading, most: int) -> Text:
    """Read the files below the prefix, in the order of their names, into at most ``most`` documents.

    Raises:
        RefusedData: nothing there that can be read, or malformed, with the object and the line.
    """
    bucket, prefix = s3_place(source)
    found = _objects(source, aws)

    def files() -> Iterator[tuple[Path, str]]:
        for each in found:
            yield _bring(bucket, each, aws, downloads), f"s3://{bucket}/{each.key}"

    name = f"s3-{bucket}-{PurePosixPath(prefix).name or 'all'}"
    below = f"s3://{bucket}/{prefix}"
    return text_of_files(name, "not stated (objects in S3)", files(), reading, most, root=below)


def _objects(source: str, aws: Connection) -> list[_Object]:
    bucket, prefix = s3_place(source)
    seen, found = 0, list[_Object]()
    more: dict[str, Any] = {}
    while True:
        try:
            listed = aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix, **more)
        except ClientError as error:
            if is_absent(error):
                raise refused_source(source, f"no bucket {bucket}", remedy="name a bucket of this account") from error
            raise
        for item in listed.get("Contents", []):
            seen += 1
            below = item["Key"][len(prefix.rpartition("/")[0]) :].lstrip("/")
            hidden = any(part.startswith((".", "_")) for part in PurePosixPath(below).parts)  # _SUCCESS, _temporary
            if item["Size"] and format_of(item["Key"]) and not hidden:
                found.append(_Object(item["Key"], item["ETag"].strip('"')))
        if not listed.get("NextContinuationToken"):
            break
        more = {"ContinuationToken": listed["NextContinuationToken"]}
    if not found:
        raise refused_source(
            source, f"{seen} objects below s3://{bucket}/{prefix}, none that can be read", f"objects named {ACCEPTED}",
            "name the prefix of your files",
        )  # fmt: skip
    return found


def _bring(bucket: str, wanted: _Object, aws: Connection, downloads: Path) -> Path:
    """The object's bytes in a file: whole or not there."""
    key = hashlib.sha256("\n".join((aws.place, bucket, wanted.key, wanted.etag)).encode()).hexdigest()
    path = downloads / "s3" / key
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{uuid.uuid4().hex}")
    try:
        body = aws.call("s3", "GetObject", Bucket=bucket, Key=wanted.key, IfMatch=wanted.etag)["Body"]
        with part.open("wb") as file:
            for chunk in body.iter_chunks(1 << 20):
                file.write(chunk)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
