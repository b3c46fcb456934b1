"""Pages of a list, with AWS's NextToken."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from deployments.local.endpoint_service.wire import AwsError


class BadToken(AwsError):
    """A NextToken that is none of ours. Each service has an error of its own for that."""


def page(items: Sequence[Any], token: str | None, size: int) -> tuple[list[Any], dict[str, str]]:
    """``size`` items from where the token points, and the next token (or nothing) as a member to merge."""
    start = _read(token) if token else 0
    more = start + size < len(items)
    return list(items[start : start + size]), {"NextToken": _write(start + size)} if more else {}


def _write(offset: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{offset}".encode()).decode()


def _read(token: str) -> int:
    try:
        kind, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if kind != "offset":
            raise ValueError(kind)
        return max(0, int(number))
    except (ValueError, binascii.Error) as error:
        raise BadToken("ValidationException", f"Invalid NextToken {token[:80]!r}") from error
