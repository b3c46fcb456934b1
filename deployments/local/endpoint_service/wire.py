"""What goes over the wire: AWS-shaped errors and answers for the JSON protocols.

Protocols, as boto3 1.44.5 sends them: SageMaker and Application Auto Scaling awsJson1.1, CloudWatch awsJson1.0 with
``x-amzn-query-mode``, the SageMaker runtime restJson.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Json = dict[str, Any]


_RUN, _NUMBERS = str(uuid.uuid4()).rpartition("-")[0].encode(), itertools.count(random.getrandbits(40))


class AwsError(Exception):
    """An error that the client sees: ``code`` is the modelled exception, ``message`` its text."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 400,
        query_code: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.query_code = query_code
        self.extra = dict(extra or {})


def invalid(message: str) -> AwsError:
    """SageMaker's ordinary refusal."""
    return AwsError("ValidationException", message)


def not_implemented(what: str, note: str = "") -> AwsError:
    """501 that names what is missing. Never a made-up success."""
    message = f"{what} is not implemented by the Slimline endpoint service (a local rehearsal of SageMaker). {note}"
    return AwsError("NotImplementedException", message.strip(), status=501)


@dataclass(slots=True)
class Answer:
    """An HTTP answer. ``broken``: the connection ends in its middle, a rehearsed fault.

    With ``relay`` the body is not known yet: it is called with the way to send and the message that begins the answer.
    """

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False
    relay: Callable[[Any, Any], Awaitable[None]] | None = None


def json_answer(value: object, content_type: str, status: int = 200) -> Answer:
    """A JSON answer. An operation without output answers an empty object, as AWS does."""
    return Answer(status, json.dumps(value).encode(), [("content-type", content_type)])


def error_answer(error: AwsError, content_type: str = "application/x-amz-json-1.1") -> Answer:
    """The error in the shape that every JSON protocol of botocore reads."""
    body = {"__type": error.code, "message": error.message, "Message": error.message, **error.extra}
    answer = json_answer(body, content_type, error.status)
    answer.headers.append(("x-amzn-errortype", error.code))
    if error.query_code:
        fault = "Receiver" if error.status >= 500 else "Sender"
        answer.headers.append(("x-amzn-query-error", f"{error.query_code};{fault}"))
    return answer


def request_id() -> bytes:
    """A new UUID for every answer: drawn for the process, counted within it."""
    return b"%b-%012x" % (_RUN, next(_NUMBERS))


def timestamp(value: object) -> float:
    """Seconds since the epoch from a request's timestamp: a number, or ISO 8601."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError as error:
        raise AwsError("SerializationException", f"{value!r} is not a timestamp") from error


def epoch(seconds: float) -> float:
    """A timestamp for an answer: milliseconds are what AWS keeps."""
    return round(seconds, 3)
