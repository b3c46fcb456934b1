"""Requests of InvokeEndpointAsync: what is kept of each, and the folder that keeps them while they wait.

One file a request, written before the request is accepted and removed when its result is in S3: a service that comes
back goes on with what was waiting or under way, so a model may see a request twice.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from deployments.local.endpoint_service.inference import ATTRIBUTES
from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

_INLINE = 128_000  # bytes of a body in the request itself
_TTL, _SECONDS = 21_600, 900  # seconds: RequestTTLSeconds and InvocationTimeoutSeconds when nothing is said
_PASSED = {
    "x-amzn-sagemaker-content-type": "content-type",
    "x-amzn-sagemaker-accept": "accept",
    ATTRIBUTES: ATTRIBUTES,
}
_UNSAFE = re.compile(r"[^A-Za-z0-9!_.*'()-]")


@dataclass
class AsyncRequest:
    """One accepted request. ``received``: virtual seconds since the epoch. Exactly one of ``source`` and ``body``."""

    key: str
    endpoint: str
    inference: str
    received: float
    source: str
    body: bytes
    headers: dict[str, str]  # what the container sees
    output: str
    failure: str  # empty: nowhere
    ttl: float  # virtual seconds that it may wait
    seconds: float  # wall seconds that the model may take
    attempts: int = 0

    @classmethod
    def accepted(
        cls, endpoint: str, config: Json, headers: Mapping[str, str], given: Json, body: bytes, now: float
    ) -> AsyncRequest:
        """Of a checked request: ``given`` are its members, ``config`` the endpoint's AsyncInferenceConfig."""
        inference = given.get("InferenceId") or str(uuid4())
        name = given.get("Filename") or f"{_UNSAFE.sub('-', inference)}.out"
        folder = f"/{given['S3OutputPathExtension'].strip('/')}" if given.get("S3OutputPathExtension") else ""
        paths = config["OutputConfig"]
        failure = paths.get("S3FailurePath", "")
        return cls(
            key=str(uuid4()),
            endpoint=endpoint,
            inference=inference,
            received=now,
            source=given.get("InputLocation", ""),
            body=body,
            headers={kept: headers[header] for header, kept in _PASSED.items() if header in headers},
            output=f"{paths['S3OutputPath'].rstrip('/')}{folder}/{name}",
            failure=failure and f"{failure.rstrip('/')}{folder}/{name.rpartition('.')[0] or name}-error.out",
            ttl=float(given.get("RequestTTLSeconds", _TTL)),
            seconds=float(given.get("InvocationTimeoutSeconds", _SECONDS)),
        )


def check_input(location: str, body: bytes) -> None:
    """A request names its input or brings it, and not both. Raises ``AwsError``."""
    if bool(location) == bool(body):
        raise AwsError("ValidationError", "Exactly one of Body and InputLocation must be provided.")
    if len(body) > _INLINE:
        raise AwsError(
            "ValidationError",
            f"1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length less "
            f"than or equal to {_INLINE}",
        )
    if location.startswith("https:"):
        raise not_implemented("InvokeEndpointAsync: an InputLocation with https", "Use s3://bucket/key.")
    if location and not location.removeprefix("s3://").strip("/").partition("/")[2]:
        raise AwsError("ValidationError", f"InputLocation {location} does not name an object.")


class Spool:
    """The requests below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, request: AsyncRequest) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{request.key}.part"
        part.write_text(json.dumps(asdict(request) | {"body": base64.b64encode(request.body).decode()}))
        part.replace(self._folder / f"{request.key}.json")

    def forget(self, request: AsyncRequest) -> None:
        (self._folder / f"{request.key}.json").unlink(missing_ok=True)

    def kept(self) -> list[AsyncRequest]:
        """Everything that is there, the oldest first."""
        found = [json.loads(path.read_text()) for path in self._folder.glob("*.json")]
        requests = [AsyncRequest(**each | {"body": base64.b64decode(each["body"])}) for each in found]
        return sorted(requests, key=lambda request: request.received)
