"""HTTP itself, byte by byte: requests behind one another on a connection, old clients, HEAD, answers in one piece."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from deployments.local.endpoint_service.app import header_lines
from deployments.local.endpoint_service.wire import Answer
from tests.local.stack import Service

PATH = "/_slimline/operations"


def talk(service: Service, request: str, count: int = 1) -> tuple[list[bytes], bool]:
    """Send it, and read ``count`` answers with a Content-Length. Returns them, and whether the service then closed."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        seen, answers = b"", []
        while len(answers) < count:
            head, between, rest = seen.partition(b"\r\n\r\n")
            length = 0 if request.startswith("HEAD") else length_of(head)
            if between and len(rest) >= length:
                answers.append(head + between + rest[:length])
                seen = rest[length:]
            else:
                seen += connection.recv(65536)
        connection.settimeout(1)
        try:
            return answers, connection.recv(1) == b""
        except TimeoutError:
            return answers, False


def length_of(head: bytes) -> int:
    return next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)


def test_requests_behind_one_another_are_answered_in_their_order(service: Service) -> None:
    post = "POST /endpoints/absent/invocations HTTP/1.1\nHost: localhost\nContent-Length: 2\n\n{}"
    get = f"GET {PATH} HTTP/1.1\nHost: localhost\n\n"
    answers, closed = talk(service, get + post + get, 3)
    assert [answer.split(b"\r\n")[0] for answer in answers] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
        b"HTTP/1.1 200 OK",
    ]
    assert b"Endpoint absent of account" in answers[1] and not closed
    ids = {line for answer in answers for line in answer.split(b"\r\n") if line.startswith(b"x-amzn-requestid")}
    assert len(ids) == 3


@pytest.mark.parametrize(
    "head", [f"GET {PATH} HTTP/1.0\nHost: localhost", f"GET {PATH} HTTP/1.1\nHost: localhost\nConnection: close"]
)
def test_a_client_that_keeps_nothing_open_is_told_and_let_go(service: Service, head: str) -> None:
    (answer,), closed = talk(service, f"{head}\n\n")
    assert closed and b"connection: close\r\n" in answer and answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_head_has_the_length_and_no_body(service: Service) -> None:
    (answer,), closed = talk(service, f"HEAD {PATH} HTTP/1.1\nHost: localhost\n\n")
    assert length_of(answer) > 100 and answer.endswith(b"\r\n\r\n") and not closed


def test_every_answer_says_when_and_that_this_is_a_rehearsal(service: Service) -> None:
    (answer,), _ = talk(service, f"GET {PATH} HTTP/1.1\nHost: localhost\n\n")
    for line in (b"date: ", b"x-slimline-rehearsal: speed=60", b"content-type: application/json"):
        assert b"\r\n" + line in answer


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\0b"])
def test_a_header_cannot_bring_another(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        header_lines(Answer(200, b"", [("x-amzn-sagemaker-custom-attributes", value)]))
