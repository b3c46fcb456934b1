"""Captured requests and answers of a trial with a shadow variant, paired.

SageMaker writes JSON lines below ``<destination>/<endpoint>/<variant>/yyyy/mm/dd/hh/``
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html). Both variants' answers to
one request carry one ``eventId``; where they should not, an ``InferenceId`` that the caller gave pairs them too.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.adapters.aws_connection import Connection
from tasks.adapters.captured_lines import text_side
from tasks.adapters.sagemaker_names import CHALLENGER, VARIANT

_MOST = 20_000  # answers without a partner that are remembered


@dataclass(frozen=True)
class Captured:
    """One request with both answers, as text."""

    event: str
    request: str
    baseline: str
    candidate: str


class Captures:
    """Reads what is new since the last call. Nothing is kept but names of objects and answers without a partner.

    Objects are read in the order of their hours, both variants' beside each other, so that few answers wait for long.
    """

    def __init__(self, aws: Connection, bucket: str, endpoint: str, since: str) -> None:
        """``since``: events before are another trial's, ISO 8601 with Z."""
        self._aws, self._bucket, self._endpoint, self._since = aws, bucket, endpoint, since
        self._read: set[str] = set()
        self._lone: dict[str, dict[str, dict[str, Any]]] = {VARIANT: {}, CHALLENGER: {}}

    def new(self) -> Iterator[Captured]:
        """The pairs that have become complete, one by one."""
        for variant, line in self._lines():
            other = CHALLENGER if variant == VARIANT else VARIANT
            keys = _keys(line)
            partner = next((self._lone[other][key] for key in keys if key in self._lone[other]), None)
            if partner is None:
                self._remember(variant, keys, line)
            else:
                for key in _keys(partner):  # under its other key it would wait on, in the place of one that is alone
                    self._lone[other].pop(key, None)
                base, mine = (line, partner) if variant == VARIANT else (partner, line)
                yield _pair(base, mine)

    def _remember(self, variant: str, keys: list[str], line: dict[str, Any]) -> None:
        lone = self._lone[variant]
        lone.update(dict.fromkeys(keys, line))
        while len(lone) > _MOST:  # a shadow that does not answer leaves nothing to pair with
            del lone[next(iter(lone))]

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for below, variant in heapq.merge(*(self._objects(variant) for variant in (VARIANT, CHALLENGER))):
            key = self._prefix(variant) + below
            if key in self._read:
                continue
            body = self._aws.call("s3", "GetObject", Bucket=self._bucket, Key=key)["Body"].read()
            self._read.add(key)
            for text in body.splitlines():
                line = json.loads(text)
                if line["eventMetadata"]["inferenceTime"] >= self._since and "endpointOutput" in line["captureData"]:
                    yield variant, line

    def _prefix(self, variant: str) -> str:
        return f"captures/{self._endpoint}/{variant}/"

    def _objects(self, variant: str) -> Iterator[tuple[str, str]]:
        """(name below the variant's folder, variant), from the hour of ``since`` on: S3 lists in the order of names."""
        prefix = self._prefix(variant)
        hour = f"{datetime.fromisoformat(self._since):%Y/%m/%d/%H}/"
        more: dict[str, Any] = {"StartAfter": prefix + hour}
        while True:
            listed = self._aws.call("s3", "ListObjectsV2", Bucket=self._bucket, Prefix=prefix, **more)
            yield from ((item["Key"].removeprefix(prefix), variant) for item in listed.get("Contents", []))
            if not listed.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": listed["NextContinuationToken"]}


def _keys(line: dict[str, Any]) -> list[str]:
    metadata = line["eventMetadata"]
    return [metadata[name] for name in ("eventId", "inferenceId") if metadata.get(name)]


def _pair(base: dict[str, Any], mine: dict[str, Any]) -> Captured:
    return Captured(
        event=base["eventMetadata"]["eventId"],
        request=text_side(base["captureData"].get("endpointInput")),
        baseline=text_side(base["captureData"]["endpointOutput"]),
        candidate=text_side(mine["captureData"]["endpointOutput"]),
    )
