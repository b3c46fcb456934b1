"""CloudWatch's other two protocols, for older boto3, the older CLI and other SDKs: query (XML) and smithy-rpc-v2-cbor.

Requests become what awsJson would have sent, answers are written from the same values. moto's parser and serializer do
the query protocol, botocore's own the CBOR; both work from botocore's service model.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from botocore.model import DenormalizedStructureBuilder
from botocore.parsers import RpcV2CBORParser
from botocore.serialize import RpcV2CBORSerializer

from deployments.local.endpoint_service import validation
from deployments.local.endpoint_service.wire import Answer, AwsError, Json, not_implemented, request_id

RPC = "/service/GraniteServiceVersion20100801/operation/"
_CBOR, _XML = "application/cbor", "text/xml"
_NAMESPACE = "http://monitoring.amazonaws.com/doc/2010-08-01/"
_SERVICE = "cloudwatch"
_ERROR = (
    DenormalizedStructureBuilder()
    .with_members({"__type": {"type": "string"}, "message": {"type": "string"}})
    .build_model()
)

Perform = Callable[[str, Json], Json]


def speaks(path: str, query: bytes, body: bytes) -> bool:
    """Whether a request is in one of the two."""
    return path.startswith(RPC) or b"Action=" in (query or body)


def answer(path: str, query: bytes, body: bytes, perform: Perform) -> Answer:
    """Perform the operation that a request names, and answer in its own protocol."""
    return _cbor(path.removeprefix(RPC), body, perform) if path.startswith(RPC) else _query(query or body, perform)


def _query(form: bytes, perform: Perform) -> Answer:
    # moto's code is loaded with the first such request only: few clients send one.
    from moto.core.model import OperationModel
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.serialize import QuerySerializer, SerializationContext
    from moto.core.utils import get_service_model
    from werkzeug.datastructures import MultiDict

    given = MultiDict(parse_qsl(form.decode("utf-8", "replace"), keep_blank_values=True))
    name, identity = given.get("Action", ""), request_id().decode()
    try:
        _known(name)
        model: OperationModel = get_service_model(_SERVICE).operation_model(name)
        values: Any = {"values": given}  # all that this parser reads
        try:
            request = PROTOCOL_PARSERS["query"](model, timestamp_parser=str).parse(values)
        except (ValueError, TypeError, KeyError) as error:
            raise AwsError("MalformedInput", f"The parameters cannot be read: {error}") from error
        made = QuerySerializer(model, SerializationContext(identity)).serialize(perform(name, request))
        return Answer(200, str(made["body"]).encode(), [("content-type", _XML)])
    except AwsError as error:
        return _query_error(error, identity)


def _query_error(error: AwsError, identity: str) -> Answer:
    side = "Receiver" if error.status >= 500 else "Sender"
    code, message = escape(error.query_code or error.code), escape(error.message)
    text = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>{side}</Type><Code>{code}</Code>'
        f"<Message>{message}</Message></Error><RequestId>{identity}</RequestId></ErrorResponse>"
    )
    return Answer(error.status, text.encode(), [("content-type", _XML)])


def _cbor(name: str, body: bytes, perform: Perform) -> Answer:
    try:
        _known(name)
        shape = validation.service_model(_SERVICE).operation_model(name).output_shape
        made = perform(name, _decoded(body))
        return _cbor_answer(200, _encoded(made, shape) if shape else b"")
    except AwsError as error:
        shown = _cbor_answer(error.status, _encoded({"__type": error.code, "message": error.message}, _ERROR))
        if error.query_code:
            side = "Receiver" if error.status >= 500 else "Sender"
            shown.headers.append(("x-amzn-query-error", f"{error.query_code};{side}"))
        return shown


def _cbor_answer(status: int, body: bytes) -> Answer:
    return Answer(status, body, [("content-type", _CBOR), ("smithy-protocol", "rpc-v2-cbor")])


def _decoded(body: bytes) -> Json:
    if not body:
        return {}
    try:
        found = _plain(RpcV2CBORParser().parse_data_item(io.BufferedReader(io.BytesIO(body))))
    except Exception as error:
        raise AwsError("SerializationException", f"The body is not CBOR: {error}") from error
    if not isinstance(found, dict):
        raise AwsError("SerializationException", "The body must be a CBOR map.")
    return found


def _encoded(value: Json, shape: Any) -> bytes:
    made = bytearray()
    serializer: Any = RpcV2CBORSerializer()
    serializer._serialize_data_item(made, value, shape)
    return bytes(made)


def _plain(value: Any) -> Any:
    """Timestamps as JSON has them: seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _known(name: str) -> None:
    if name not in validation.operations(_SERVICE):
        raise not_implemented(f"CloudWatch: {name or 'a request without Action'}")
