"""SageMaker's captures, line by line: JSON lines below a prefix in S3, in the order of their names.

Names are hours, ``<endpoint>/<variant>/yyyy/mm/dd/hh/mm-ss-…``, so that order is the order of time
(https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.sagemaker_names import is_own_inference
from tasks.errors import RefusedData


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as text; empty where a side was not captured. ``own``: Slimline has sent it itself,
    to rehearse or to probe.
    """

    request: str
    answer: str
    own: bool = False


def first_object(aws: Connection, bucket: str, prefix: str) -> str | None:
    """The first object below ``prefix``, by one call; none where there is none, or no such bucket."""
    try:
        listed = aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except ClientError as error:
        if is_absent(error):
            return None
        raise
    return next((item["Key"] for item in listed.get("Contents", [])), None)


def captured(aws: Connection, bucket: str, prefix: str) -> Iterator[Exchange]:
    """Every captured exchange below ``prefix``; one object at a time is in memory.

    Raises:
        RefusedData: a line is no capture; with the object and the line.
    """
    more: dict[str, Any] = {}
    while True:
        listed = aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix, **more)
        for item in listed.get("Contents", []):
            if item["Key"].endswith(".jsonl"):
                yield from _lines(aws, bucket, item["Key"])
        if not listed.get("NextContinuationToken"):
            return
        more = {"ContinuationToken": listed["NextContinuationToken"]}


def _lines(aws: Connection, bucket: str, key: str) -> Iterator[Exchange]:
    body = aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"].read()
    for number, line in enumerate(body.splitlines(), start=1):
        if line.strip():
            try:
                event = json.loads(line)
                data, known = event["captureData"], event.get("eventMetadata") or {}
                sides = (text_side(data.get("endpointInput")), text_side(data.get("endpointOutput")))
                yield Exchange(*sides, own=is_own_inference(known.get("inferenceId")))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RefusedData(
                    f"s3://{bucket}/{key} is no capture", observed=f"line {number}: {type(error).__name__}: {error}",
                    limit="JSON lines as SageMaker's data capture writes them, with captureData",
                    remedy="name the prefix of an endpoint's captures",
                ) from error  # fmt: skip


def text_side(side: dict[str, str] | None) -> str:
    """Input or output of one event as text; what is not UTF-8 in it is replaced."""
    if side is None:
        return ""
    if side["encoding"] == "BASE64":
        return base64.b64decode(side["data"]).decode("utf-8", "replace")
    return side["data"]
