"""Requests checked against botocore's own service model, including what botocore does not check.

boto3 checks required members, types and minima before it sends. It lets pass: enums, maxima, lengths and patterns. The
real service checks those too, so this walks the same ``service-2.json`` and answers in AWS's message style. A member
that the model does not know answers 501, because ignoring it would be a made-up success.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StringShape, StructureShape

from deployments.local.endpoint_service.wire import AwsError, Json, not_implemented

_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float, str),
    "blob": (str,),
}
_JAVA = {r"\p{Print}": r"\x20-\x7E", r"\p{ASCII}": r"\x00-\x7F", r"\p{Alnum}": "a-zA-Z0-9"}
_SHOWN = 200  # characters of a refused value that a message repeats


@functools.cache
def service_model(service: str) -> ServiceModel:
    """botocore's model of a service, read once (SageMaker's takes about half a second)."""
    loader = botocore.session.get_session().get_component("data_loader")
    return ServiceModel(loader.load_service_model(service, "service-2"), service)


@functools.cache
def operations(service: str) -> frozenset[str]:
    return frozenset(service_model(service).operation_names)


def check(service: str, operation: str, params: Json, code: str = "ValidationException") -> None:
    """Raise ``code`` with AWS's text if the parameters do not fit the operation's input shape."""
    model: OperationModel = service_model(service).operation_model(operation)
    shape = model.input_shape
    if shape is None:
        return
    found = list(_walk(shape, params, "", operation))
    if found:
        count = f"{len(found)} validation error{'s' if len(found) > 1 else ''} detected: "
        raise AwsError(code, count + "; ".join(found))


def _walk(shape: Shape, value: Any, path: str, operation: str) -> Iterator[str]:
    _check_type(shape, value, path)
    if isinstance(shape, StructureShape):
        yield from _structure(shape, value, path, operation)
    elif isinstance(shape, ListShape):
        yield from _bounds(shape, len(value), value, path, "length")
        for index, item in enumerate(value, 1):
            yield from _walk(shape.member, item, f"{path}.{index}.member", operation)
    elif isinstance(shape, MapShape):
        yield from _bounds(shape, len(value), value, path, "length")
        for key, item in value.items():
            yield from _walk(shape.key, key, f"{path}.key", operation)
            yield from _walk(shape.value, item, f"{path}.{key}.value", operation)
    elif isinstance(shape, StringShape):
        yield from _string(shape, value, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _bounds(shape, value, value, path, "value")


def _structure(shape: StructureShape, value: Mapping[str, Any], path: str, operation: str) -> Iterator[str]:
    for name in value:
        if name not in shape.members:
            raise not_implemented(
                f"{operation}: member {name!r} of {shape.name}", "The service model does not know it."
            )
    for name in shape.required_members:
        if value.get(name) is None:
            yield _message(None, _join(path, name), "Member must not be null")
    for name, item in value.items():
        if item is not None:
            yield from _walk(shape.members[name], item, _join(path, name), operation)


def _string(shape: StringShape, value: str, path: str) -> Iterator[str]:
    yield from _bounds(shape, len(value), value, path, "length")
    if shape.enum and value not in shape.enum:
        yield _message(value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    compiled = _pattern(pattern) if pattern else None
    # The pattern is tried on short values only: an over-long one is refused already, and cannot be made to backtrack.
    if compiled and len(value) <= shape.metadata.get("max", 4096) and not compiled.fullmatch(value):
        yield _message(value, path, f"Member must satisfy regular expression pattern: {pattern}")


def _bounds(shape: Shape, size: float, value: object, path: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _message(value, path, f"Member must have {what} greater than or equal to {low}")
    if high is not None and size > high:
        yield _message(value, path, f"Member must have {what} less than or equal to {high}")


def _check_type(shape: Shape, value: object, path: str) -> None:
    wanted = _TYPES.get(shape.type_name)
    wrong = wanted is None or not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
    if wrong:
        raise AwsError("SerializationException", f"{path or shape.name}: a {shape.type_name} is wanted, not {value!r}")


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str] | None:
    """AWS writes Java's dialect; Python's lacks the Unicode classes. None where it cannot be said in Python."""
    python = pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", r"\w").replace(r"\p{Z}", r"\s").replace(r"\z", r"\Z")
    for java, characters in _JAVA.items():
        python = python.replace("[" + java, "[" + characters).replace(java, f"[{characters}]")
    try:
        return re.compile(python)
    except re.error:
        return None


def _join(path: str, name: str) -> str:
    camel = name[:1].lower() + name[1:]
    return f"{path}.{camel}" if path else camel


def _message(value: object, path: str, constraint: str) -> str:
    shown = "null" if value is None else f"'{str(value)[:_SHOWN]}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"
