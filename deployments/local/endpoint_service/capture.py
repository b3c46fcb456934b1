"""Data capture: requests and answers as JSON lines in S3.

"Data capture" in the SageMaker developer guide: objects below ``DestinationS3Uri/<endpoint>/<variant>/yyyy/mm/dd/hh/``,
one event a line. Lines of a variant are written together, about once a second. A shadow variant's answers carry the
same ``eventId`` as the production variant's to the same request, so that they can be compared.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.modeldata import s3_client, split
from deployments.local.endpoint_service.wire import Json

log = logging.getLogger("slimline.capture")

_LOOK = 1.0  # wall seconds between writes
_MOST = 10_000  # lines that wait; more are dropped and said to be


class Exchange(NamedTuple):
    """One request to one variant and its answer."""

    endpoint: str
    variant: str
    event: str
    inference: str
    attributes: str
    request_type: str
    request: bytes
    answer_type: str
    answer: bytes


class Capture:
    """Collects lines and writes them to the S3 at ``endpoint``."""

    def __init__(self, endpoint: str, region: str, clock: Clock, changed: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._region = region
        self._clock = clock
        self._changed = changed
        self._waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._count = 0
        self._dropped = 0
        self._seen: dict[str, int] = defaultdict(int)

    def sampled(self, config: Json, endpoint: str) -> bool:
        """Whether the next request is captured: spread evenly, not drawn. ``config`` is not empty."""
        percent = int(config["InitialSamplingPercentage"])
        seen = self._seen[endpoint]
        self._seen[endpoint] = seen + 1
        return (seen + 1) * percent // 100 > seen * percent // 100

    def add(self, config: Json, exchange: Exchange) -> None:
        """Keep one exchange for the next write."""
        if self._count >= _MOST:
            self._dropped += 1
            return
        hour, second = _stamps(int(self._clock.now()))
        key = f"{exchange.endpoint}/{exchange.variant}/{hour}"
        self._waiting[config["DestinationS3Uri"], key].append(json.dumps(_line(config, exchange, second)))
        self._count += 1

    async def follow(self) -> None:
        """Write what has come, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            await self.write()

    async def write(self) -> None:
        """Write everything that waits."""
        waiting, self._waiting, self._count = dict(self._waiting), defaultdict(list), 0
        if self._dropped:
            log.error("%d captured events were dropped: more than %d waited", self._dropped, _MOST)
            self._dropped = 0
        if not waiting:
            return
        try:
            await asyncio.to_thread(self._put, waiting)
        except (ClientError, BotoCoreError) as error:
            # AWS loses captured events to a bucket that it cannot write to, and says so in its log only.
            log.error("%d captured events are lost: %s", sum(map(len, waiting.values())), error)
        self._changed()

    def _put(self, waiting: dict[tuple[str, str], list[str]]) -> None:
        client = s3_client(self._endpoint, self._region)
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        for (destination, folder), lines in waiting.items():
            bucket, prefix = split(destination)
            name = f"{now:%M-%S}-{now.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
            key = "/".join(part for part in (prefix.strip("/"), folder, name) if part)
            client.put_object(Bucket=bucket, Key=key, Body="\n".join(lines).encode() + b"\n")


@lru_cache(maxsize=4)
def _stamps(second: int) -> tuple[str, str]:
    """The hour's folder, and the second as ``inferenceTime`` has it."""
    now = datetime.fromtimestamp(second, UTC)
    return f"{now:%Y/%m/%d/%H}", f"{now:%Y-%m-%dT%H:%M:%SZ}"


def _line(config: Json, exchange: Exchange, second: str) -> Json:
    modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
    data: Json = {}
    if modes & {"Input", "InputAndOutput"}:
        data["endpointInput"] = _side("INPUT", exchange.request_type, exchange.request, config)
    if modes & {"Output", "InputAndOutput"}:
        data["endpointOutput"] = _side("OUTPUT", exchange.answer_type, exchange.answer, config)
    metadata = {"eventId": exchange.event, "inferenceTime": second}
    if exchange.inference:
        metadata["inferenceId"] = exchange.inference
    if exchange.attributes:
        metadata["customAttributes"] = [exchange.attributes]  # type: ignore[assignment]
    return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}


def _side(mode: str, content_type: str, content: bytes, config: Json) -> Json:
    """Types that the configuration calls JSON or CSV stay as they are; everything else is base64."""
    headers = config.get("CaptureContentTypeHeader") or {}
    plain = content_type.partition(";")[0].strip().lower()
    encoding = "BASE64"
    for name, kinds in (("JSON", "JsonContentTypes"), ("CSV", "CsvContentTypes")):
        if plain in {kind.lower() for kind in headers.get(kinds, [])}:
            encoding = name
    text = base64.b64encode(content).decode() if encoding == "BASE64" else content.decode("utf-8", "replace")
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
