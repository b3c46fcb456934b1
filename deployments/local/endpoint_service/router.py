"""The data plane: InvokeEndpoint routed to a fleet, a variant and an instance. No retries: what the model says is told.

Errors as "InvokeEndpoint" in the API reference has them: ModelError is HTTP 424 with OriginalStatusCode,
OriginalMessage and LogStreamArn. Times are wall seconds: a model answers as fast as this machine can.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from deployments.local.endpoint_service import runtime
from deployments.local.endpoint_service.capture import Capture, Exchange
from deployments.local.endpoint_service.faults import Faults
from deployments.local.endpoint_service.fleets import Fleet, Variant
from deployments.local.endpoint_service.inference import ATTRIBUTES, MAX_BODY, SESSION, Inference, Reply, model_error
from deployments.local.endpoint_service.sessions import CLOSED, NEW, OPENED, Sessions
from deployments.local.endpoint_service.state import ACCOUNT, DELETING, SYSTEM_UPDATING, Endpoint, State
from deployments.local.endpoint_service.wire import Answer, AwsError, Json, request_id
from deployments.local.endpoint_service.workers import Worker

_COPIES = 64  # to shadow variants under way at once; more are left out


class _Kept(NamedTuple):
    """A request whose answers are captured: the production variant's and the shadow's under one event."""

    config: Json
    headers: Mapping[str, str]
    body: bytes
    event: str

    def exchange(self, endpoint: str, variant: str, reply: Reply) -> Exchange:
        return Exchange(
            endpoint,
            variant,
            self.event,
            self.headers.get("x-amzn-sagemaker-inference-id", ""),
            self.headers.get(ATTRIBUTES, ""),
            self.headers.get("content-type", ""),
            self.body,
            reply.headers.get("content-type", ""),
            reply.body,
        )


class Target(NamedTuple):
    """Where a request goes. ``worker`` is None where the variant has no healthy instance."""

    fleet: Fleet
    variant: Variant
    worker: Worker | None


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

    def __init__(self, state: State, inference: Inference, faults: Faults, capture: Capture) -> None:
        self._state = state
        self._inference = inference
        self._faults = faults
        self._capture = capture
        self._sessions = Sessions()
        self._copies: set[asyncio.Task[None]] = set()
        self._dice = random.Random()

    async def invoke(self, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One invocation. ``headers`` with lower-case names. Raises ``AwsError``."""
        began = time.perf_counter()
        runtime.check("InvokeEndpoint", headers)
        endpoint = self.serving(name)
        target = self.target(endpoint, headers)
        fleet, variant, worker = target
        kept = None
        if fleet.capture and self._capture.sampled(fleet.capture, name):
            kept = _Kept(fleet.capture, headers, body, request_id().decode())
        if fleet.shadow is not None:
            self.copy(name, target, headers, body, kept)
        if worker is None:
            raise self.no_instance(name, variant, began)
        reply = await self._inference.answer(name, variant, worker, headers, body)
        overhead = time.perf_counter() - began - (reply.seconds or 0.0)
        variant.recorder.record(reply.status, reply.seconds, overhead, len(variant.workers), worker.id)
        if not reply.good:
            raise model_error(name, self._state.region, reply)
        if SESSION in headers:
            self._sessions.note(name, headers[SESSION], target, reply.headers)
        answer = _answer(variant.name, reply)
        if kept:
            self._capture.add(kept.config, kept.exchange(name, variant.name, reply))
        if self._faults and self._faults.hit("connection_reset", endpoint=name, config=variant.config):
            answer.broken = True
        return answer

    def serving(self, name: str, asynchronous: bool = False) -> Endpoint:
        """The endpoint, where it takes requests of that kind now. Raises ``AwsError``."""
        endpoint = self._state.endpoints.get(name)
        if endpoint is not None and endpoint.status == SYSTEM_UPDATING and endpoint.blue is None:
            raise AwsError("ServiceUnavailable", f"The instances of {name} are starting.", status=503)
        if endpoint is None or endpoint.blue is None or endpoint.status == DELETING:
            raise _bad(f"Endpoint {name} of account {ACCOUNT} not found.")
        if endpoint.blue.asynchronous != asynchronous:
            kind, other = ("real-time", "InvokeEndpoint") if asynchronous else ("asynchronous", "InvokeEndpointAsync")
            raise _bad(f"Endpoint {name} of account {ACCOUNT} is {kind}: it takes {other} only.")
        return endpoint

    def target(self, endpoint: Endpoint, headers: Mapping[str, str]) -> Target:
        """An instance by weight, by TargetVariant, or the one that holds the session. Raises ``AwsError``."""
        wanted = headers.get("x-amzn-sagemaker-target-variant")
        session = headers.get(SESSION)
        if session is not None and session != NEW:
            return self._sessions.find(endpoint, session, wanted)
        fleet = endpoint.blue
        if fleet is not None and wanted is None and endpoint.settled and (drawn := fleet.draw(self._dice)):
            return Target(fleet, drawn, drawn.pick())  # nearly every request
        variant = choose(endpoint, wanted, self._dice)
        if fleet is None or fleet.variants.get(variant.name) is not variant:
            fleet = next(fleet for fleet in endpoint.fleets if fleet.variants.get(variant.name) is variant)
        return Target(fleet, variant, variant.pick())

    def no_instance(self, name: str, variant: Variant, began: float) -> AwsError:
        """The refusal of a request that no instance can take; counted."""
        variant.recorder.record(503, None, time.perf_counter() - began, len(variant.workers))
        message = f"No healthy instance of variant {variant.name} on {name}."
        return AwsError("ServiceUnavailable", message, status=503)

    def copy(
        self, name: str, target: Target, headers: Mapping[str, str], body: bytes, kept: _Kept | None = None
    ) -> None:
        """Send a copy to the shadow variant, beside the request and never before its answer."""
        shadow = target.fleet.shadow
        if shadow is None or self._dice.random() >= shadow.weight / (target.variant.weight or 1.0):
            return
        worker = shadow.pick()
        if worker is None or len(self._copies) >= _COPIES:
            return

        async def send() -> None:
            began = time.perf_counter()
            reply = await self._inference.answer(name, shadow, worker, headers, body)
            overhead = time.perf_counter() - began - (reply.seconds or 0.0)
            shadow.recorder.record(reply.status, reply.seconds, overhead, len(shadow.workers), worker.id)
            if kept and reply.good:
                self._capture.add(kept.config, kept.exchange(name, shadow.name, reply))

        task = asyncio.create_task(send())
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)


def _answer(variant: str, reply: Reply) -> Answer:
    headers = [("x-amzn-invoked-production-variant", variant)]
    for name in ("content-type", ATTRIBUTES, OPENED, CLOSED):
        if value := reply.headers.get(name):
            headers.append((name, value))
    return Answer(200, reply.body, headers)


def _bad(message: str) -> AwsError:
    return AwsError("ValidationError", message)


def too_large() -> AwsError:
    """AWS answers an over-long body with a bare 413."""
    return AwsError("413", f"HTTP content length exceeded {MAX_BODY} bytes.", status=413)
