"""Real inferences: one that must be right, and many that are only counted. All say that no user has sent them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_errors import BadAnswer, endpoint_missing, error_of, is_absent
from tasks.adapters.sagemaker_names import own_inference
from tasks.errors import SlimlineError

PROBE_SECONDS = 300.0  # wall; an instance may be busy with what was asked before
_LOOK_SECONDS = 0.5
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
    return _generated(endpoint, answer["Body"].read())


def _generated(endpoint: str, body: bytes) -> str:
    try:
        found = json.loads(body)
        text = (found[0] if isinstance(found, list) else found)["generated_text"]
    except (ValueError, LookupError, TypeError) as error:
        raise _bad(endpoint, body[:200]) from error
    if not isinstance(text, str) or not text:
        raise _bad(endpoint, body[:200])
    return text


def probe_async(
    aws: Connection,
    endpoint: str,
    prompt: str,
    parameters: Mapping[str, Any] = _PROBE,
    seconds: float = PROBE_SECONDS,
) -> str:
    """As ``probe``, of an asynchronous endpoint: the answer is read from S3 once it is there.

    Args:
        seconds: Wall time that it may take: the request waits its turn.

    Raises:
        BadAnswer: the failure's object came instead, or nothing in time.
    """
    answer = _invoke_async(aws, endpoint, prompt, {"return_full_text": False, **parameters}, retry=True)
    deadline = time.monotonic() + seconds
    while True:
        found = _object(aws, answer["OutputLocation"])
        if found is not None:
            return _generated(endpoint, found)
        failure = _object(aws, answer["FailureLocation"]) if answer.get("FailureLocation") else None
        if failure is not None:
            raise _bad(endpoint, failure[:400].decode("utf-8", "replace"))
        if time.monotonic() > deadline:
            raise _bad(endpoint, f"no object at {answer['OutputLocation']} after {seconds:.0f} s")
        time.sleep(_LOOK_SECONDS)


def _object(aws: Connection, uri: str) -> bytes | None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        content: bytes = aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if is_absent(error):
            return None
        raise
    return content


def send(
    aws: Connection, endpoint: str, prompt: str, parameters: Mapping[str, Any], *, asynchronous: bool = False
) -> int:
    """Ask once, without retries. Returns the HTTP status: the container's own for its errors, 0 for no answer. An
    asynchronous endpoint says 202 when it has taken the request.
    """
    try:
        if asynchronous:
            taken = _invoke_async(aws, endpoint, prompt, parameters, retry=False)
            return int(taken["ResponseMetadata"]["HTTPStatusCode"])
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
    return aws.call(
        "sagemaker-runtime", "InvokeEndpoint", retry=retry, EndpointName=endpoint, **_request(prompt, parameters)
    )


def _invoke_async(
    aws: Connection, endpoint: str, prompt: str, parameters: Mapping[str, Any], *, retry: bool
) -> dict[str, Any]:
    return aws.call(
        "sagemaker-runtime", "InvokeEndpointAsync", retry=retry, EndpointName=endpoint, **_request(prompt, parameters)
    )


def _request(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    body = json.dumps({"inputs": prompt, "parameters": dict(parameters)}).encode()
    return {
        "ContentType": "application/json", "Accept": "application/json", "Body": body, "InferenceId": own_inference()
    }  # fmt: skip


def _bad(endpoint: str, observed: object) -> BadAnswer:
    return BadAnswer(
        f"endpoint {endpoint} did not answer a real inference",
        observed=observed,
        limit='[{"generated_text": "..."}] with at least one character',
        remedy="read the container's log; traffic is where the endpoint's config says it is",
    )
