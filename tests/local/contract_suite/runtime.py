"""The SageMaker runtime."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.local.contract_suite.world import RUNTIME, World, rows

runtime = partial(rows, RUNTIME)


def invoke(world: World, **change: Any) -> dict[str, Any]:
    body = change.pop("Body", b'{"inputs": "hello"}')
    return {"EndpointName": world.endpoint, "ContentType": "application/json", "Body": body} | change


def queued(world: World, **change: Any) -> dict[str, Any]:
    return {"EndpointName": world.queue, "InputLocation": "s3://contract/in"} | change


ROWS = [
    # requests
    *runtime(
        "InvokeEndpoint",
        lambda w: invoke(w, Accept="application/json", CustomAttributes="a", InferenceId="i", TargetVariant="main"),
        ("ValidationError", 400, True, lambda w: invoke(w, EndpointName="absent")),
        ("ValidationError", 400, False, lambda w: invoke(w, InferenceId="i" * 65)),
    ),
    *runtime(
        "InvokeEndpointWithResponseStream",
        lambda w: invoke(w, Body=b'{"stream": 5}', CustomAttributes="a", InferenceId="i"),
        ("ValidationError", 400, True, lambda w: invoke(w, EndpointName="absent")),
        ("ValidationError", 400, False, lambda w: invoke(w, SessionId="NEW_SESSION")),
    ),
    *runtime(
        "InvokeEndpointAsync",
        lambda w: queued(w, InferenceId="i", RequestTTLSeconds=60),
        ("ValidationError", 400, True, lambda w: queued(w, EndpointName=w.endpoint)),
        ("ValidationError", 400, False, lambda w: queued(w, RequestTTLSeconds=5)),
        status=202,
    ),
]
