"""The data plane: InvokeEndpoint routed to a fleet, a variant and an instance. No retries: what the model says is told.

Errors as "InvokeEndpoint" in the API reference has them: ModelError is HTTP 424 with OriginalStatusCode,
OriginalMessage and LogStreamArn. Times are wall seconds: a model answers as fast as this machine can.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import aiohttp

from deployments.local.endpoint_service.capture import Capture, Exchange
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Fleet, Variant
from deployments.local.endpoint_service.state import ACCOUNT, DELETING, SYSTEM_UPDATING, Endpoint, State
from deployments.local.endpoint_service.wire import Answer, AwsError, Json, not_implemented
from deployments.local.endpoint_service.workers import Worker

MAX_BODY = 6_291_456  # bytes, both ways
MODEL_SECONDS = 60.0
_COPIES = 64  # to shadow variants under way at once; more are left out
_SHOWN = 1024  # characters of a model's error that are repeated
_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_PASSED = ("content-type", "accept", _ATTRIBUTES)  # request headers that the container sees
_MISSING = (
    "x-amzn-sagemaker-target-model",
    "x-amzn-sagemaker-target-container-hostname",
    "x-amzn-sagemaker-inference-component",
    "x-amzn-sagemaker-session-id",
    "x-amzn-sagemaker-enable-explanations",
    "x-amzn-sagemaker-prefix-aware-id",
)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int  # 0: no answer
    body: bytes
    headers: Mapping[str, str]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A request whose answers are captured: the production variant's and the shadow's under one event."""

    config: Json
    headers: Mapping[str, str]
    body: bytes
    event: str = field(default_factory=lambda: str(uuid.uuid4()))

    def exchange(self, endpoint: str, variant: str, reply: _Reply) -> Exchange:
        return Exchange(
            endpoint,
            variant,
            self.event,
            self.headers.get("x-amzn-sagemaker-inference-id", ""),
            self.headers.get(_ATTRIBUTES, ""),
            self.headers.get("content-type", ""),
            self.body,
            reply.headers.get("content-type", ""),
            reply.body,
        )


def routes(endpoint: Endpoint) -> Iterator[tuple[Variant, float]]:
    """Every variant of every fleet with its part of the endpoint's traffic (parts need not add up to one)."""
    green = endpoint.green
    if endpoint.blue is not None:
        yield from _weighted(endpoint.blue, {name: _left(endpoint, name) for name in endpoint.blue.production})
    if mixed := endpoint.mixed:
        yield from _weighted(mixed, {name: _of_mixed(endpoint, name) for name in mixed.production})
    if green is not None:
        yield from _weighted(green, {name: variant.share for name, variant in green.production.items()})


def _weighted(fleet: Fleet, shares: Mapping[str, float]) -> Iterator[tuple[Variant, float]]:
    total = sum(variant.weight for variant in fleet.production.values()) or 1.0
    for name, variant in fleet.production.items():
        yield variant, variant.weight / total * shares[name]


def _left(endpoint: Endpoint, name: str) -> float:
    """The part of a variant's traffic that the serving fleet has."""
    return (1 - _taken(endpoint.green, name)) * (1 - _taken(endpoint.mixed, name))


def _of_mixed(endpoint: Endpoint, name: str) -> float:
    """The part that a failed rollback has left with the fleet that should have gone."""
    return (1 - _taken(endpoint.green, name)) * _taken(endpoint.mixed, name)


def _taken(green: Fleet | None, name: str) -> float:
    """The part of a variant's traffic that the new fleet has taken."""
    if green is None:
        return 0.0
    if name in green.variants:
        return green.variants[name].share
    return max((variant.share for variant in green.variants.values()), default=0.0)  # a variant that goes away


def choose(endpoint: Endpoint, target: str | None, dice: random.Random) -> Variant:
    """A variant drawn by weight; with ``target`` that variant, drawn between the fleets."""
    if target is None:
        candidates = [(variant, part) for variant, part in routes(endpoint) if part > 0]
    else:
        candidates = list(_targets(endpoint, target))
    if not candidates:
        raise _bad(
            f"Variant {target} not found for endpoint {endpoint.name} of account {ACCOUNT}."
            if target
            else f"No production variant of endpoint {endpoint.name} has a weight greater than 0."
        )
    if len(candidates) == 1:
        return candidates[0][0]
    return dice.choices([v for v, _ in candidates], [part for _, part in candidates])[0]


def _targets(endpoint: Endpoint, target: str) -> Iterator[tuple[Variant, float]]:
    if endpoint.blue and target in endpoint.blue.production and (left := _left(endpoint, target)) > 0:
        yield endpoint.blue.production[target], left
    if endpoint.mixed and target in endpoint.mixed.production and (part := _of_mixed(endpoint, target)) > 0:
        yield endpoint.mixed.production[target], part
    if (
        endpoint.green
        and target in endpoint.green.production
        and (share := endpoint.green.production[target].share) > 0
    ):
        yield endpoint.green.production[target], share


class Router:
    """Answers InvokeEndpoint."""

    def __init__(self, state: State, client: aiohttp.ClientSession, faults: Faults, capture: Capture) -> None:
        self._state = state
        self._faults = faults
        self._capture = capture
        self._copies: set[asyncio.Task[None]] = set()
        self._client = client
        self._dice = random.Random()

    async def invoke(self, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One invocation. ``headers`` with lower-case names. Raises ``AwsError``."""
        began = time.perf_counter()
        for header in _MISSING:
            if header in headers:
                raise not_implemented(f"InvokeEndpoint: header {header}")
        endpoint = self._state.endpoints.get(name)
        if endpoint is not None and endpoint.status == SYSTEM_UPDATING and endpoint.blue is None:
            raise AwsError("ServiceUnavailable", f"The instances of {name} are starting.", status=503)
        if endpoint is None or endpoint.blue is None or endpoint.status == DELETING:
            raise _bad(f"Endpoint {name} of account {ACCOUNT} not found.")
        variant = choose(endpoint, headers.get("x-amzn-sagemaker-target-variant"), self._dice)
        fleet = next(fleet for fleet in endpoint.fleets if fleet.variants.get(variant.name) is variant)
        capture = fleet.config.capture
        kept = _Kept(capture, headers, body) if self._capture.sampled(capture, name) else None
        self._copy(name, fleet, variant, headers, body, kept)
        worker = variant.pick()
        if worker is None:
            variant.recorder.record(503, None, time.perf_counter() - began, len(variant.workers))
            raise AwsError(
                "ServiceUnavailable", f"No healthy instance of variant {variant.name} on {name}.", status=503
            )
        reply = await self._model(name, variant, worker, headers, body)
        overhead = time.perf_counter() - began - (reply.seconds or 0.0)
        variant.recorder.record(reply.status, reply.seconds, overhead, len(variant.workers))
        if not 200 <= reply.status < 300:
            raise self._model_error(name, reply)
        answer = _answer(variant.name, reply)
        if kept:
            self._capture.add(kept.config, kept.exchange(name, variant.name, reply))
        answer.broken = self._faults.hit("connection_reset", endpoint=name, config=variant.config) is not None
        return answer

    def _copy(
        self,
        name: str,
        fleet: Fleet,
        variant: Variant,
        headers: Mapping[str, str],
        body: bytes,
        kept: _Kept | None,
    ) -> None:
        """Send a copy to the shadow variant, beside the request and never before its answer."""
        shadow = fleet.shadow
        if shadow is None or self._dice.random() >= shadow.weight / (variant.weight or 1.0):
            return
        worker = shadow.pick()
        if worker is None or len(self._copies) >= _COPIES:
            return

        async def send() -> None:
            began = time.perf_counter()
            reply = await self._model(name, shadow, worker, headers, body)
            overhead = time.perf_counter() - began - (reply.seconds or 0.0)
            shadow.recorder.record(reply.status, reply.seconds, overhead, len(shadow.workers))
            if kept and 200 <= reply.status < 300:
                self._capture.add(kept.config, kept.exchange(name, shadow.name, reply))

        task = asyncio.create_task(send())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _model(
        self, name: str, variant: Variant, worker: Worker, headers: Mapping[str, str], body: bytes
    ) -> _Reply:
        """What the model answers, or a rehearsed fault in its place. Added latency counts as the model's."""
        where = {"endpoint": name, "config": variant.config}
        slow = self._faults.hit("latency", **where)
        if slow:
            await asyncio.sleep(slow.seconds)
        if fault := self._faults.hit("errors", **where):
            reply = _Reply(fault.status, b'{"error": "a rehearsed fault"}', {}, 0.0)
        elif self._faults.hit("dead_model", **where):
            return _Reply(0, b"The container primary gave no answer: a rehearsed fault", {}, None)
        else:
            reply = await self._ask(worker, headers, body)
        if slow and reply.seconds is not None:
            return replace(reply, seconds=reply.seconds + slow.seconds)
        return reply

    async def _ask(self, worker: Worker, headers: Mapping[str, str], body: bytes) -> _Reply:
        passed = {key: headers[key] for key in _PASSED if key in headers}
        worker.in_flight += 1
        worker.requests += 1
        began = time.perf_counter()
        try:
            async with self._client.post(f"{worker.url}/invocations", data=body, headers=passed) as response:
                content = await response.content.read(MAX_BODY + 1)
                while len(content) <= MAX_BODY and (more := await response.content.read(MAX_BODY + 1 - len(content))):
                    content += more
                if len(content) > MAX_BODY:
                    return _Reply(0, f"The model's response is larger than {MAX_BODY} bytes".encode(), {}, None)
                return _Reply(response.status, content, response.headers, time.perf_counter() - began)
        except TimeoutError:
            text = b"Your invocation timed out while waiting for a response from container primary."
            return _Reply(0, text, {}, None)
        except aiohttp.ClientError as error:
            return _Reply(
                0, f"The container primary gave no answer: {error or type(error).__name__}".encode(), {}, None
            )
        finally:
            worker.in_flight -= 1

    def _model_error(self, name: str, reply: _Reply) -> AwsError:
        text = reply.body[: 4 * _SHOWN].decode("utf-8", "replace")[:_SHOWN]
        side = "client" if 400 <= reply.status < 500 else "server"
        group, region = f"/aws/sagemaker/Endpoints/{name}", self._state.region
        message = (
            f'Received {side} error ({reply.status}) from primary with message "{text}". See the worker logs of the '
            f"endpoint service for {group} in account {ACCOUNT} for more information."
        )
        extra = {
            "OriginalStatusCode": reply.status,
            "OriginalMessage": text,
            "LogStreamArn": f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{group}",
        }
        return AwsError("ModelError", message, status=424, extra=extra)


def _answer(variant: str, reply: _Reply) -> Answer:
    headers = [("x-amzn-invoked-production-variant", variant)]
    for name in ("content-type", _ATTRIBUTES):
        if value := reply.headers.get(name):
            headers.append((name, value))
    return Answer(200, reply.body, headers)


def _bad(message: str) -> AwsError:
    return AwsError("ValidationError", message)


def too_large() -> AwsError:
    """AWS answers an over-long body with a bare 413."""
    return AwsError("413", f"HTTP content length exceeded {MAX_BODY} bytes.", status=413)
