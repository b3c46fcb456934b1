"""The contract suite's machinery: plain boto3 calls whose both sides are held against botocore's service models.

A row is one call. The request is checked as it went over the wire, the answer as it came, including what boto3 itself
does not check: enums, patterns, ranges, unknown members. Rows are in a module a service.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from deployments.local.endpoint_service import runtime, validation
from deployments.local.endpoint_service.wire import AwsError
from tests.local.stack import Deck, variant

RUNTIME = "sagemaker-runtime"


@dataclass(frozen=True)
class Row:
    """One call and what it must give.

    ``parameters`` makes them; it may create what the call needs. ``error`` is AWS's code, empty for a good call.
    ``model`` says whether the request itself fits the service model, so that only a rule can refuse it.
    """

    service: str
    operation: str
    parameters: Callable[[World], dict[str, Any]]
    error: str = ""
    status: int = 200
    model: bool = True

    @property
    def name(self) -> str:
        return f"{self.service}.{self.operation}"

    def __str__(self) -> str:
        return f"{self.name}-{self.error or 'good'}"


Parameters = Callable[["World"], dict[str, Any]]
Refused = tuple[str, int, bool, Parameters]  # code, HTTP status, whether the service model allows it, parameters


def rows(service: str, operation: str, good: Parameters, *refused: Refused, status: int = 200) -> list[Row]:
    """A good call, and refused ones."""
    found = [Row(service, operation, good, status=status)]
    return found + [Row(service, operation, each, code, failed, fits) for code, failed, fits, each in refused]


@dataclass
class Wire:
    """What went over the wire last."""

    request: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)


class World:
    """The service, and what stands there for every row."""

    def __init__(self, deck: Deck) -> None:
        self.deck = deck
        self.model = deck.model()
        self.config = deck.config(count=2)
        self.endpoint = deck.endpoint(self.config, keep=True)
        self.alarm = deck.alarm(self.endpoint, self.config)
        self._numbers = itertools.count(1)
        self.wire = Wire()
        self._clients: dict[str, Any] = {}

    def ready(self) -> str:
        """The endpoint, once nothing is under way on it."""
        self.deck.settled(self.endpoint)
        return self.endpoint

    @cached_property
    def queue(self) -> str:
        """An asynchronous endpoint."""
        config = f"queue-{self.model}"
        self.deck.sagemaker.create_endpoint_config(
            EndpointConfigName=config,
            ProductionVariants=[variant("main", self.model)],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": "s3://contract/out"}},
        )
        return self.deck.endpoint(config, keep=True)

    def name(self, kind: str) -> str:
        """A name that nothing has yet."""
        return f"contract-{kind}-{next(self._numbers)}"

    def made(self, endpoint: str) -> str:
        """The name of an endpoint that is to be deleted after the test."""
        self.deck.made.append(endpoint)
        return endpoint

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/{name}"

    def run(self, row: Row) -> dict[str, Any]:
        """Make the call. Raises ``AssertionError`` where either side does not fit, or where the outcome is another."""
        given = row.parameters(self)
        call = getattr(self._client(row.service), xform_name(row.operation))
        try:
            answer: dict[str, Any] = call(**given)
            if row.operation == "InvokeEndpointWithResponseStream":
                answer["Body"] = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"])
        except (ClientError, EventStreamError) as error:
            answer = error.response
        code = answer.get("Error", {}).get("Code", "")
        assert (code, answer["ResponseMetadata"]["HTTPStatusCode"]) == (row.error, row.status), answer
        self._check_request(row)
        if not row.error:
            self._check_answer(row, answer)
        return answer

    def _client(self, service: str) -> Any:
        """A client that sends what it is told to, right or wrong, and notes both sides."""
        if service not in self._clients:
            config = Config(retries={"max_attempts": 0}, parameter_validation=False)
            client = boto3.client(
                service,
                endpoint_url=self.deck.service.url,
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
                config=config,
            )
            client.meta.events.register("before-call", lambda params, **_: setattr(self.wire, "request", params))
            client.meta.events.register(
                "before-parse", lambda response_dict, **_: setattr(self.wire, "answer", response_dict)
            )
            self._clients[service] = client
        return self._clients[service]

    def _check_request(self, row: Row) -> None:
        try:
            validation.check(row.service, row.operation, self._sent(row))
            fits = True
        except AwsError:
            fits = False
        assert fits == row.model, f"{row}: the request {'fits' if fits else 'does not fit'} the service model"

    def _sent(self, row: Row) -> dict[str, Any]:
        if row.service == RUNTIME:
            endpoint = self.wire.request["url_path"].split("/")[2]
            headers = {name.lower(): value for name, value in self.wire.request["headers"].items()}
            return runtime.members(row.operation, endpoint, headers) | {"Body": ""}
        sent: dict[str, Any] = json.loads(self.wire.request["body"])
        return sent

    def _check_answer(self, row: Row, answer: dict[str, Any]) -> None:
        shape = validation.service_model(row.service).operation_model(row.operation).output_shape
        if row.service == RUNTIME:
            headers = {name.lower() for name in self.wire.answer["headers"]}
            assert shape is not None
            for member in shape.members.values():
                if member.serialization.get("location") == "header" and member.serialization["name"].lower() in headers:
                    headers.remove(member.serialization["name"].lower())
            assert not {name for name in headers if name.startswith("x-amzn-")} - {"x-amzn-requestid"}, headers
            value = {name: item for name, item in answer.items() if name != "ResponseMetadata"}
            value |= {"Body": {} if row.operation.endswith("Stream") else ""} if "Body" in shape.members else {}
        else:
            value = json.loads(self.wire.answer["body"])
        if shape is None:
            assert value == {}
        else:
            assert validation.problems(shape, value, row.operation) == []
