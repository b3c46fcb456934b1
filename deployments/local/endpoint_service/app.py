"""The ASGI application: which request is whose.

Ours by ``X-Amz-Target`` (SageMaker, CloudWatch, Application Auto Scaling), by path (``/endpoints/``, ``/_slimline/``),
by the signing name in the Authorization header. What is ours and not implemented answers 501; everything else goes to
moto. Signatures are not verified: this is a rehearsal on loopback.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from urllib.parse import parse_qs

import aiohttp

from deployments.local.endpoint_service import pages, protocols, validation
from deployments.local.endpoint_service.asgi import Gone, Receive, Scope, Send, TooLarge, read_body
from deployments.local.endpoint_service.async_inference import AsyncInference
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.faults import BadFault, Faults
from deployments.local.endpoint_service.inference import MAX_BODY
from deployments.local.endpoint_service.joined import WHOLE
from deployments.local.endpoint_service.moto_backend import Moto
from deployments.local.endpoint_service.paging import BadToken
from deployments.local.endpoint_service.router import Router, too_large
from deployments.local.endpoint_service.streaming import Streams
from deployments.local.endpoint_service.wire import (
    Answer,
    AwsError,
    Json,
    error_answer,
    json_answer,
    not_implemented,
    request_id,
)

JSON_1_0, JSON_1_1, REST = "application/x-amz-json-1.0", "application/x-amz-json-1.1", "application/json"
_LIMIT = 10 * 1024 * 1024  # bytes of a control-plane request, unpacked
_SAGEMAKER, _CLOUDWATCH, _SCALING = "SageMaker", "GraniteServiceVersion20100801", "AnyScaleFrontendService"
_SERVICES = {_SAGEMAKER: "sagemaker", _CLOUDWATCH: "cloudwatch", _SCALING: "application-autoscaling"}
_INVOKE = re.compile(r"/endpoints/([^/]+)/(invocations|async-invocations|invocations-response-stream)")
_RUNTIME = {
    "invocations": "InvokeEndpoint",
    "async-invocations": "InvokeEndpointAsync",
    "invocations-response-stream": "InvokeEndpointWithResponseStream",
}
_IMPLEMENTED = "/_slimline/operations"
_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/[^/,\s]+/([^/,\s]+)/aws4_request")
_OURS = ("sagemaker", "monitoring", "application-autoscaling")  # signing names that never reach moto
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # what a header's value may not have (RFC 9110, 5.5)
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|[a-z0-9.-]+\.localhost|\[::1\])(:\d+)?", re.IGNORECASE)

_READING = ("Describe", "List", "Get")

Operations = dict[str, Callable[[Json], Json]]


@dataclass(frozen=True)
class Changes:
    """Called after a request that may have changed something: of ours, of what moto does."""

    ours: Callable[[], None]
    s3: Callable[[], None]


class App:
    """The ASGI callable."""

    def __init__(
        self,
        clock: Clock,
        sagemaker: Operations,
        cloudwatch: Operations,
        scaling: Operations,
        router: Router,
        streams: Streams,
        queues: AsyncInference,
        moto: Moto,
        own: Callable[[str], Answer],
        faults: Faults,
        changes: Changes,
    ) -> None:
        self._clock = clock
        self._operations = {_SAGEMAKER: sagemaker, _CLOUDWATCH: cloudwatch, _SCALING: scaling}
        self._router = router
        self._streams = streams
        self._queues = queues
        self._moto = moto
        self._own = own
        self._faults = faults
        self._changes = changes
        self._label = f"speed={clock.speed:g}".encode()  # every answer says that this is not AWS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn runs with lifespan off; websockets are not spoken
        # ASGI's header names are lower case.
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        try:
            answer = self._refusal(headers)
            if answer is None:
                match = _invocation(scope["path"])
                if match and "/sagemaker/aws4_request" in headers.get("authorization", ""):  # nearly every request
                    answer = await self._invoke(match, headers, receive)
                else:
                    answer = await self._answer(scope, match, headers, receive)
        except AwsError as error:
            answer = error_answer(error, REST)
        except TooLarge:
            answer = error_answer(AwsError("RequestEntityTooLargeException", f"At most {_LIMIT} bytes.", status=413))
        except Gone:
            return
        if answer is None:
            await self._forward(scope, receive, send)
            if scope["method"] in ("PUT", "POST", "DELETE"):
                self._changes.s3()
        else:
            await self._send(scope, send, answer)

    def _refusal(self, headers: dict[str, str]) -> Answer | None:
        """A web page must not reach this service by rebinding a name or by posting across origins."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _loopback(host):
            return pages.text(
                403, f"Host {host!r} is not a loopback name: this service answers on this machine only.\n"
            )
        if origin and not _loopback(origin.partition("://")[2]):
            return pages.text(403, f"Origin {origin!r} is not this machine.\n")
        return None

    async def _answer(
        self, scope: Scope, match: re.Match[str] | None, headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        """Our answer, or None for moto's."""
        path, target = scope["path"], headers.get("x-amz-target", "")
        if path == "/_slimline" or path.startswith("/_slimline/"):
            return await self._admin(scope["method"], path, headers, receive)
        prefix, _, operation = target.partition(".")
        if prefix in _SERVICES:
            body = await read_body(headers, receive, _LIMIT)
            return self._operation(prefix, operation, _unpacked(headers, body))
        signed = _SCOPE.search(headers.get("authorization", ""))
        service = signed.group(1) if signed else ""
        if match and service in ("", "sagemaker"):
            return await self._invoke(match, headers, receive)
        if service == "monitoring" or path.startswith(protocols.RPC):
            query, body = scope["query_string"], _unpacked(headers, await read_body(headers, receive, _LIMIT))
            if protocols.speaks(path, query, body):
                return protocols.answer(
                    path, query, body, lambda name, request: self._perform(_CLOUDWATCH, name, lambda: request)
                )
            raise not_implemented(f"monitoring: {scope['method']} {path}")
        if service in _OURS or service.startswith("sagemaker"):
            raise not_implemented(await _named(scope, headers, receive, service))
        return None

    def implemented(self) -> dict[str, list[str]]:
        """Every operation that does something here, by service; all others answer 501."""
        found = {_SERVICES[prefix]: sorted(operations) for prefix, operations in self._operations.items()}
        return found | {"sagemaker-runtime": sorted(_RUNTIME.values())}

    async def _admin(self, method: str, path: str, headers: dict[str, str], receive: Receive) -> Answer:
        """``/_slimline/``: pages to read, and faults to add and take back."""
        if method in ("GET", "HEAD"):
            return json_answer(self.implemented(), REST) if path == _IMPLEMENTED else self._own(path)
        kind, _, name = path.removeprefix("/_slimline").strip("/").partition("/")
        if kind != "faults" or method not in ("POST", "DELETE"):
            return pages.text(405, "GET only; POST and DELETE for /_slimline/faults\n")
        if method == "DELETE":
            return json_answer({}, REST) if self._faults.remove(name) else pages.text(404, "no such fault\n")
        body = await read_body(headers, receive, _LIMIT)
        try:
            return json_answer(asdict(self._faults.add(_parsed(body))), REST, 201)
        except BadFault as error:
            return json_answer({"error": str(error)}, REST, 400)

    def _operation(self, prefix: str, operation: str, body: bytes) -> Answer:
        content_type = JSON_1_0 if prefix == _CLOUDWATCH else JSON_1_1
        try:
            return json_answer(self._perform(prefix, operation, lambda: _parsed(body)), content_type)
        except AwsError as error:
            return error_answer(error, content_type)

    def _perform(self, prefix: str, operation: str, read: Callable[[], Json]) -> Json:
        """What an operation answers to the request that ``read`` gives. Raises ``AwsError``."""
        run = self._operations[prefix].get(operation)
        if run is None:
            raise not_implemented(f"{prefix}.{operation}")
        if self._faults.hit("throttling", operation=operation):
            raise AwsError("ThrottlingException", "Rate exceeded")
        if refusal := self._faults.hit("refusal", operation=operation):
            raise AwsError(refusal.code, refusal.message)
        request = read()
        code = "ValidationError" if prefix == _CLOUDWATCH else "ValidationException"
        validation.check(_SERVICES[prefix], operation, request, code)
        try:
            answer = run({name: value for name, value in request.items() if value is not None})
        except BadToken as error:
            raise validation.bad_token(_SERVICES[prefix], operation, error.message) from error
        if not operation.startswith(_READING):
            self._changes.ours()
        return answer

    async def _invoke(self, match: re.Match[str], headers: dict[str, str], receive: Receive) -> Answer:
        name, kind = match.group(1), match.group(2)
        try:
            body = await read_body(headers, receive, MAX_BODY)
        except TooLarge:
            return error_answer(too_large(), REST)
        if kind == "invocations":
            return await self._router.invoke(name, headers, body)
        if kind == "async-invocations":
            return self._queues.invoke(name, headers, body)
        return await self._streams.invoke(name, headers, body, receive)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: object) -> None:
            nonlocal started
            started = True
            await send(message)  # type: ignore[arg-type]

        try:
            await self._moto.forward(scope, receive, noting)
        except (aiohttp.ClientError, ConnectionError) as error:
            if started:
                raise  # half an answer is out: closing the connection is all that is left
            failure = AwsError(
                "ServiceUnavailable", f"The backend for this service gave no answer: {error}", status=503
            )
            await self._send(scope, send, error_answer(failure, REST))

    def _every_answer(self) -> list[tuple[bytes, bytes]]:
        """The headers that all answers have."""
        return [
            (b"date", self._clock.http_date()),
            (b"x-amzn-requestid", request_id()),
            (b"x-slimline-rehearsal", self._label),
        ]

    async def _send(self, scope: Scope, send: Send, answer: Answer) -> None:
        head = scope["method"] == "HEAD"
        headers = self._every_answer()
        if answer.relay is None and not answer.broken and not head:  # nearly every answer
            whole = scope.get("extensions", {}).get(WHOLE)
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
            if whole and whole["answer"](answer.status, lines + header_lines(answer), answer.body):
                return
        headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in answer.headers]
        if answer.relay is not None:
            await answer.relay(send, {"type": "http.response.start", "status": answer.status, "headers": headers})
            return
        headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.broken:
            half = answer.body[: len(answer.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            return  # the server closes the connection: less has come than was announced
        await send({"type": "http.response.body", "body": b"" if head else answer.body})


def header_lines(answer: Answer) -> bytes:
    """An answer's own headers as they are written. Raises ``ValueError`` for a value that would end its line."""
    lines = [f"{name}: {value}\r\n" for name, value in answer.headers if not _CONTROL.search(value)]
    if len(lines) < len(answer.headers):
        raise ValueError(f"a header of the answer has a control character: {answer.headers}")
    return "".join(lines).encode("latin-1", "replace")


@functools.lru_cache(maxsize=256)
def _loopback(host: str) -> bool:
    return _LOOPBACK.fullmatch(host) is not None


@functools.lru_cache(maxsize=1024)
def _invocation(path: str) -> re.Match[str] | None:
    return _INVOKE.fullmatch(path)


def _unpacked(headers: dict[str, str], body: bytes) -> bytes:
    """boto3 sends long PutMetricData requests gzipped."""
    if headers.get("content-encoding", "").lower() != "gzip":
        return body
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(body, _LIMIT + 1)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise AwsError("SerializationException", f"The body is not gzip: {error}") from error
    if len(unpacked) > _LIMIT:
        raise TooLarge(len(unpacked))
    return unpacked


def _parsed(body: bytes) -> Json:
    try:
        request = json.loads(body or b"{}", parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise AwsError("SerializationException", f"The body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise AwsError("SerializationException", "The body must be a JSON object.")
    return request


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


async def _named(scope: Scope, headers: dict[str, str], receive: Receive, service: str) -> str:
    """The operation's name for a 501, for protocols that we do not speak."""
    path: str = scope["path"]
    body = await read_body(headers, receive, _LIMIT)
    action = parse_qs(scope["query_string"] or body if b"Action=" in body else scope["query_string"]).get(b"Action")
    if action:
        return f"{service}.{action[0].decode('latin-1')} over the query protocol"
    return f"{service or 'this service'}: {scope['method']} {path}"
