"""Requests of the SageMaker runtime: their members are headers, checked against the service model like any other."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from deployments.local.endpoint_service import validation
from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

_SERVICE = "sagemaker-runtime"
_OWN = "x-amzn-sagemaker-"
_MISSING = (  # members without effect here
    "TargetModel",
    "TargetContainerHostname",
    "InferenceComponentName",
    "EnableExplanations",
    "PrefixAwareId",
)


def check(operation: str, endpoint: str, headers: Mapping[str, str]) -> None:
    """Raise ValidationError for a header that its shape does not allow, 501 for one that has no effect here.

    Args:
        operation: of the runtime.
        endpoint: the name in the path.
        headers: with lower-case names.
    """
    if not _own(operation).isdisjoint(headers):
        _check(operation, endpoint, headers)


def _check(operation: str, endpoint: str, headers: Mapping[str, str]) -> None:
    given = members(operation, endpoint, headers)
    for name in _MISSING:
        if name in given:
            raise not_implemented(f"{operation}: {name}")
    validation.check(_SERVICE, operation, given | {"Body": ""}, "ValidationError")


def members(operation: str, endpoint: str, headers: Mapping[str, str]) -> Json:
    """The operation's input as its headers and path give it, without the body."""
    given: Json = {"EndpointName": endpoint}
    for header, (name, number) in _headers(operation).items():
        if header in headers:
            given[name] = _integer(name, headers[header]) if number else headers[header]
    return given


@functools.cache
def _own(operation: str) -> frozenset[str]:
    return frozenset(header for header in _headers(operation) if header.startswith(_OWN))


@functools.cache
def _headers(operation: str) -> dict[str, tuple[str, bool]]:
    """Header → the member that it carries, and whether that is a number."""
    shape = validation.service_model(_SERVICE).operation_model(operation).input_shape
    assert shape is not None
    return {
        member.serialization["name"].lower(): (name, member.type_name == "integer")
        for name, member in shape.members.items()
        if member.serialization.get("location") == "header"
    }


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise AwsError("ValidationError", f"Value '{text[:64]}' at '{name}' is not an integer.") from error
