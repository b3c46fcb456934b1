"""What one look at an account saw, and what an answer that is an error means to one who only looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from tasks.adapters.sagemaker_errors import AccessDenied, error_of
from tasks.errors import SlimlineError

State = Literal["ok", "failed", "unknown", "skipped"]
_SEE = "to see this, attach deployments/aws/doctor-policy.json to the identity that looks"


@dataclass(frozen=True)
class Finding:
    """``remedy`` is empty where nothing is to be done. What may not be seen is "unknown", never "ok"."""

    check: str
    state: State
    observed: str
    remedy: str = ""


def look(check: str, see: Callable[[], Finding]) -> Finding:
    """``see``, with every answer that is an error as a finding: what may not be seen is unknown."""
    try:
        return see()
    except AccessDenied as error:
        return Finding(check, "unknown", f"{error.cause}", _SEE)
    except SlimlineError as error:
        return Finding(check, "failed", f"{error.cause} ({error.observed})", error.remedy)
    except ClientError as error:
        code, message = error_of(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status in (500, 501):
            return Finding(check, "unknown", f"this service does not answer it: {code}", "look again later")
        return Finding(check, "failed", f"{code}: {message}", "see docs/aws.md for this error code")
    except ResponseParserError as error:
        return Finding(check, "unknown", f"an answer that is none: {error}"[:200], "look again later")
    except (BotoCoreError, OSError) as error:
        return Finding(
            check, "failed", f"{type(error).__name__}: {error}"[:300],
            "look at AWS_REGION, AWS_ENDPOINT_URL, the network and the proxy",
        )  # fmt: skip
