"""Captured requests and answers of a trial with a shadow variant, paired.

SageMaker writes JSON lines below ``<destination>/<endpoint>/<variant>/yyyy/mm/dd/hh/``
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html). Both variants' answers to
one request carry one ``eventId``; where they should not, an ``InferenceId`` that the caller gave pairs them too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_requests import CHALLENGER, VARIANT

_MOST = 20_000  # answers without a partner that are remembered


@dataclass(frozen=True)
class Captured:
    """One request with both answers, as text."""

    event: str
    request: str
    baseline: str
    candidate: str


class Captures:
    """Reads what is new since the last call. Nothing is kept but names of objects and answers without a partner."""

    def __init__(self, aws: Connection, bucket: str, endpoint: str, since: str) -> None:
        """``since``: events before are another trial's, ISO 8601 with Z."""
        self._aws, self._bucket, self._endpoint, self._since = aws, bucket, endpoint, since
        self._read: set[str] = set()
        self._lone: dict[str, dict[str, dict[str, Any]]] = {VARIANT: {}, CHALLENGER: {}}

    def new(self) -> list[Captured]:
        """The pairs that have become complete."""
        found = []
        for variant, other in ((VARIANT, CHALLENGER), (CHALLENGER, VARIANT)):
            for line in self._lines(variant):
                metadata = line["eventMetadata"]
                keys = [metadata[name] for name in ("eventId", "inferenceId") if metadata.get(name)]
                partner = next((self._lone[other].pop(key) for key in keys if key in self._lone[other]), None)
                if partner is None:
                    self._remember(variant, keys, line)
                else:
                    base, mine = (line, partner) if variant == VARIANT else (partner, line)
                    found.append(_pair(base, mine))
        return found

    def _remember(self, variant: str, keys: list[str], line: dict[str, Any]) -> None:
        lone = self._lone[variant]
        lone.update(dict.fromkeys(keys, line))
        while len(lone) > _MOST:  # a shadow that does not answer leaves nothing to pair with
            del lone[next(iter(lone))]

    def _lines(self, variant: str) -> Iterator[dict[str, Any]]:
        prefix = f"captures/{self._endpoint}/{variant}/"
        for key in self._keys(prefix):
            if key in self._read:
                continue
            body = self._aws.call("s3", "GetObject", Bucket=self._bucket, Key=key)["Body"].read()
            self._read.add(key)
            for text in body.splitlines():
                line = json.loads(text)
                if line["eventMetadata"]["inferenceTime"] >= self._since and "endpointOutput" in line["captureData"]:
                    yield line

    def _keys(self, prefix: str) -> Iterator[str]:
        token: dict[str, Any] = {}
        while True:
            listed = self._aws.call("s3", "ListObjectsV2", Bucket=self._bucket, Prefix=prefix, **token)
            yield from (item["Key"] for item in listed.get("Contents", []))
            if not listed.get("NextContinuationToken"):
                return
            token = {"ContinuationToken": listed["NextContinuationToken"]}


def _pair(base: dict[str, Any], mine: dict[str, Any]) -> Captured:
    return Captured(
        event=base["eventMetadata"]["eventId"],
        request=_text(base["captureData"].get("endpointInput")),
        baseline=_text(base["captureData"]["endpointOutput"]),
        candidate=_text(mine["captureData"]["endpointOutput"]),
    )


def _text(side: dict[str, str] | None) -> str:
    if side is None:
        return ""
    if side["encoding"] == "BASE64":
        return base64.b64decode(side["data"]).decode("utf-8", "replace")
    return side["data"]
