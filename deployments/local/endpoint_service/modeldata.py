"""A model's files, brought from S3 to a local folder once and shared by every worker that serves them.

The folder's name is a digest of what S3 holds (keys, ETags, sizes), so changed objects make a new folder. It is written
beside its place and renamed: it is complete or absent.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tarfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.local.endpoint_service.wire import Json

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LIMIT = 200 * 1024**3  # bytes of an unpacked archive


class NoModelData(Exception):
    """The files cannot be brought here; the text is a FailureReason."""


class ModelData:
    """Downloads below ``folder`` from the S3 at ``endpoint``."""

    def __init__(self, folder: Path, endpoint: str, region: str) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self._region = region
        self._locks: dict[str, asyncio.Lock] = {}

    async def place(self, container: Json) -> Path:
        """The local folder with the container's model files. Raises ``NoModelData``."""
        source = container.get("ModelDataSource", {}).get("S3DataSource")
        uri = source["S3Uri"] if source else container.get("ModelDataUrl")
        if uri is None:
            return self._empty()
        packed = source is None or source["CompressionType"] == "Gzip"
        lock = self._locks.setdefault(uri, asyncio.Lock())
        async with lock:  # two workers of one model wait for one download
            try:
                return await asyncio.to_thread(self._fetch, uri, packed)
            except (ClientError, BotoCoreError, tarfile.TarError, OSError) as error:
                raise NoModelData(f"Failed to download model data from {uri}: {error}") from error

    def _empty(self) -> Path:
        path = self._folder / "empty"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _fetch(self, uri: str, packed: bool) -> Path:
        client, (bucket, key) = self._client(), split(uri)
        objects = [_head(client, bucket, key)] if packed else list_objects(client, bucket, key)
        if not objects:
            raise NoModelData(f"Could not find model data at {uri}.")
        text = "\n".join(f"{o['Key']} {o['ETag']} {o['Size']}" for o in objects)
        place = self._folder / hashlib.sha256(f"{uri}\n{text}".encode()).hexdigest()[:32]
        if place.exists():
            return place
        staging = self._folder / f"staging-{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            for item in objects:
                target = staging / "model.tar.gz" if packed else _inside(staging, item["Key"][len(key) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, item["Key"], str(target))
            if packed:
                _unpack(staging / "model.tar.gz", staging)
            staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return place

    def _client(self) -> S3Client:
        return s3_client(self._endpoint, self._region)


def s3_client(endpoint: str, region: str) -> S3Client:
    """A client for moto itself, past this service's own door."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="rehearsal",
        aws_secret_access_key="rehearsal",
        config=Config(s3={"addressing_style": "path"}, proxies={}, retries={"max_attempts": 2}),
    )


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` → bucket and key."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise NoModelData(f"Model data must be at s3://bucket/key, not {uri}.")
    return parts.netloc, unquote(parts.path.lstrip("/"))


def _head(client: S3Client, bucket: str, key: str) -> dict[str, Any]:
    found = client.head_object(Bucket=bucket, Key=key)
    return {"Key": key, "ETag": found["ETag"], "Size": found["ContentLength"]}


def list_objects(client: S3Client, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """Every object below a prefix; folders' own markers are left out."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found: list[dict[str, Any]] = [dict(item) for page in pages for item in page.get("Contents", [])]
    return [item for item in found if not item["Key"].endswith("/")]


def _inside(folder: Path, name: str) -> Path:
    """A path for an S3 key below a folder; a key that climbs out is refused."""
    path = (folder / name.lstrip("/")).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise NoModelData(f"Unsafe object key {name!r} in model data.")
    return path


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "r:gz") as tar:
        size = 0
        for member in tar:
            size += member.size
            if size > _LIMIT:
                raise NoModelData(f"The model archive unpacks to more than {_LIMIT} bytes.")
            tar.extract(member, folder, filter="data")  # refuses absolute paths, links outwards and devices
    archive.unlink()
