"""What S3 holds, copied to disk, so that it survives a restart: moto keeps objects in memory only.

``buckets.json`` names buckets and objects; an object's bytes lie in ``objects/<digest of bucket, key and ETag>``. After
requests that change something the two are compared and what differs is copied, a moment later and not before the
answer: a service that is killed within that moment forgets the last write. Versions, policies and settings of buckets
are not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from deployments.local.endpoint_service.modeldata import s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("slimline.s3")

_QUIET_SECONDS = 0.3  # several writes in a row are one comparison
_Key = tuple[str, str]


class Mirror:
    """The copy in ``folder`` of the S3 at ``endpoint``."""

    def __init__(self, folder: Path, endpoint: str, region: str) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self._region = region
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A request may have changed something."""
        self._changed.set()

    async def restore(self) -> None:
        """Put everything back into an empty S3."""
        await asyncio.to_thread(self._restore)

    async def follow(self) -> None:
        """Copy what changes, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_QUIET_SECONDS)
            self._changed.clear()
            try:
                await asyncio.to_thread(self._copy)
            except (ClientError, BotoCoreError, OSError) as error:
                log.error("S3 could not be copied to %s; a restart forgets the last writes: %s", self._folder, error)

    async def finish(self) -> None:
        """One last copy where something has changed since; the service is going away."""
        if self._changed.is_set():
            with contextlib.suppress(ClientError, BotoCoreError):  # moto may be gone already: the last copy stands
                await asyncio.to_thread(self._copy)

    def _restore(self) -> None:
        client = self._client()
        for bucket, objects in self._known().items():
            client.create_bucket(Bucket=bucket)
            for key, item in objects.items():
                extra = {"Metadata": item["metadata"], "ContentType": item["type"]}
                client.upload_file(str(self._file(bucket, key, item["etag"])), bucket, key, ExtraArgs=extra)
        if self._known():
            self._copy()  # an object that came in parts has another ETag now

    def _copy(self) -> None:
        client, known = self._client(), self._known()
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        found: dict[str, dict[str, Any]] = {name: {} for name in names}
        for bucket in names:
            for key, etag in _listed(client, bucket):
                old = known.get(bucket, {}).get(key)
                same = old is not None and old["etag"] == etag and self._file(bucket, key, etag).exists()
                found[bucket][key] = old if same else self._download(client, bucket, key)
        if found == known:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / "buckets.part"
        part.write_text(json.dumps(found, indent=1, sort_keys=True))
        part.replace(self._folder / "buckets.json")
        kept = {self._file(bucket, key, item["etag"]) for bucket in found for key, item in found[bucket].items()}
        for path in (self._folder / "objects").glob("*"):
            if path not in kept:
                path.unlink()

    def _download(self, client: S3Client, bucket: str, key: str) -> dict[str, Any]:
        head = client.head_object(Bucket=bucket, Key=key)
        place = self._file(bucket, key, head["ETag"])
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        client.download_file(bucket, key, str(part))
        part.replace(place)
        return {"etag": head["ETag"], "metadata": head["Metadata"], "type": head["ContentType"]}

    def _known(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = json.loads((self._folder / "buckets.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def _file(self, bucket: str, key: str, etag: str) -> Path:
        return self._folder / "objects" / hashlib.sha256(f"{bucket}\n{key}\n{etag}".encode()).hexdigest()[:40]

    def _client(self) -> S3Client:
        return s3_client(self._endpoint, self._region)


def _listed(client: S3Client, bucket: str) -> Iterator[_Key]:
    """Key and ETag of every object."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            yield item["Key"], item["ETag"]
