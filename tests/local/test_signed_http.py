"""A client without an SDK: requests that are signed by hand (Signature Version 4) and sent as plain HTTP."""

from __future__ import annotations

import json
from typing import Any

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.local.stack import Deck


def post(deck: Deck, path: str, body: object, **headers: str) -> requests.Response:
    content = json.dumps(body).encode()
    request = AWSRequest("POST", deck.service.url + path, data=content, headers=headers)
    SigV4Auth(Credentials("test", "test"), "sagemaker", "us-east-1").add_auth(request)
    assert "Signature=" in request.headers["Authorization"]
    return requests.post(request.url, data=content, headers=dict(request.headers), timeout=30)


def control(deck: Deck, operation: str, body: dict[str, Any]) -> requests.Response:
    target = {"X-Amz-Target": f"SageMaker.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    return post(deck, "/", body, **target)


def test_signed_requests_need_no_sdk(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    seen = control(deck, "DescribeEndpoint", {"EndpointName": endpoint})
    assert (seen.status_code, seen.headers["Content-Type"]) == (200, "application/x-amz-json-1.1")
    assert seen.json()["EndpointStatus"] == "InService"
    assert seen.headers["x-amzn-RequestId"]
    absent = control(deck, "DescribeEndpoint", {"EndpointName": "absent"})
    assert (absent.status_code, absent.json()["__type"]) == (400, "ValidationException")
    path = f"/endpoints/{endpoint}/invocations"
    said = post(deck, path, {"inputs": "by hand"}, **{"Content-Type": "application/json"})
    assert said.headers["x-amzn-invoked-production-variant"] == "main"
    assert said.json()[0]["generated_text"] == "by hand"
    refused = post(deck, "/endpoints/absent/invocations", {})
    assert (refused.status_code, refused.headers["x-amzn-ErrorType"]) == (400, "ValidationError")
