"""Requests of the SageMaker runtime: their members are headers, checked against the service model like any other."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from botocore.model import StructureShape

from deployments.local.endpoint_service import validation
from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

_SERVICE = "sagemaker-runtime"
_PREFIX = "x-amzn-sagemaker-"
_MISSING = (  # members without effect here
    "TargetModel",
    "TargetContainerHostname",
    "InferenceComponentName",
    "EnableExplanations",
    "PrefixAwareId",
)


def check(operation: str, headers: Mapping[str, str]) -> None:
    """Raise ValidationError for a header that its shape does not allow, 501 for one that has no effect here.

    ``headers`` with lower-case names. Most requests have none to check: this is on the way of every one.
    """
    own = _own(operation)
    if headers.keys().isdisjoint(own):
        return
    found = [problem for name in own if name in headers for problem in _problems(operation, name, headers[name])]
    if found:
        raise validation.refusal(found, "ValidationError")


@functools.lru_cache(maxsize=4096)
def _problems(operation: str, header: str, text: str) -> tuple[str, ...]:
    name, number = _headers(operation)[header]
    if name in _MISSING:
        raise not_implemented(f"{operation}: {name}")
    member = _shape(operation).members[name]
    value = _integer(name, text) if number else text
    return tuple(validation.problems(member, value, operation, name[:1].lower() + name[1:]))


def members(operation: str, endpoint: str, headers: Mapping[str, str]) -> Json:
    """The operation's input as its headers and path give it, without the body."""
    given: Json = {"EndpointName": endpoint}
    for header, (name, number) in _headers(operation).items():
        if header in headers:
            given[name] = _integer(name, headers[header]) if number else headers[header]
    return given


@functools.cache
def _own(operation: str) -> frozenset[str]:
    """The headers that only this service has."""
    return frozenset(header for header in _headers(operation) if header.startswith(_PREFIX))


@functools.cache
def _headers(operation: str) -> dict[str, tuple[str, bool]]:
    """Header → the member that it carries, and whether that is a number."""
    return {
        member.serialization["name"].lower(): (name, member.type_name == "integer")
        for name, member in _shape(operation).members.items()
        if member.serialization.get("location") == "header"
    }


def _shape(operation: str) -> StructureShape:
    shape = validation.service_model(_SERVICE).operation_model(operation).input_shape
    assert shape is not None
    return shape


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise AwsError("ValidationError", f"Value '{text[:64]}' at '{name}' is not an integer.") from error
