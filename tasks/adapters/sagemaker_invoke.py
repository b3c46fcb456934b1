"""Real inferences: one that must be right, and many that are only counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_errors import BadAnswer, endpoint_missing, error_of
from tasks.errors import SlimlineError

_PROBE = {"max_new_tokens": 8}


def probe(aws: Connection, endpoint: str, prompt: str, parameters: Mapping[str, Any] = _PROBE) -> str:
    """Ask the endpoint for a few tokens and return them. ``parameters``: of the request, such as temperature.

    Raises:
        BadAnswer: an error status, or an answer that is neither ``[{"generated_text": <not empty>}]`` (Hugging Face's
            containers and ours) nor that object alone (LMI).
        EndpointMissing: there is no such endpoint.
    """
    try:
        answer = _invoke(aws, endpoint, prompt, {"return_full_text": False, **parameters}, retry=True)
    except ClientError as error:
        code, message = error_of(error)
        if code == "ValidationError" and "not found" in message:
            raise endpoint_missing(endpoint, message) from error
        if code != "ModelError":
            raise
        status = error.response.get("OriginalStatusCode", "unknown")
        raise _bad(endpoint, f"status {status}: {error.response.get('OriginalMessage', message)}") from error
    body = answer["Body"].read()
    try:
        found = json.loads(body)
        text = (found[0] if isinstance(found, list) else found)["generated_text"]
    except (ValueError, LookupError, TypeError) as error:
        raise _bad(endpoint, body[:200]) from error
    if not isinstance(text, str) or not text:
        raise _bad(endpoint, body[:200])
    return text


def send(aws: Connection, endpoint: str, prompt: str, parameters: Mapping[str, Any]) -> int:
    """Ask once, without retries. Returns the HTTP status: the container's own for its errors, 0 for no answer."""
    try:
        answer = _invoke(aws, endpoint, prompt, parameters, retry=False)
        answer["Body"].read()
    except ClientError as error:
        response: Mapping[str, Any] = error.response
        return int(response.get("OriginalStatusCode") or response["ResponseMetadata"]["HTTPStatusCode"])
    except (BotoCoreError, SlimlineError):
        return 0
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _invoke(
    aws: Connection, endpoint: str, prompt: str, parameters: Mapping[str, Any], *, retry: bool
) -> dict[str, Any]:
    body = json.dumps({"inputs": prompt, "parameters": dict(parameters)}).encode()
    json_type = "application/json"
    return aws.call(
        "sagemaker-runtime", "InvokeEndpoint", retry=retry,
        EndpointName=endpoint, ContentType=json_type, Accept=json_type, Body=body,
    )  # fmt: skip


def _bad(endpoint: str, observed: object) -> BadAnswer:
    return BadAnswer(
        f"endpoint {endpoint} did not answer a real inference",
        observed=observed,
        limit='[{"generated_text": "..."}] with at least one character',
        remedy="read the container's log; traffic is where the endpoint's config says it is",
    )
