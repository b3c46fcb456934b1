"""What AWS answers, in words that say what to do.

    SlimlineError
    ├── Refused
    │   ├── NoCredentials      none found, or expired
    │   ├── NoRegion           neither an argument nor the profile names one
    │   └── AccessDenied       the role lacks one action
    ├── EndpointMissing        no endpoint of this name
    └── BadAnswer              the endpoint did not answer a real inference well

Lost connections, throttling and 5xx answers stay botocore's own errors: the caller tries those again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from tasks.errors import Refused, RefusedRequest, SlimlineError


class NoCredentials(Refused):
    """AWS credentials are missing or have expired."""


class NoRegion(Refused):
    """No AWS region is set."""


class AccessDenied(Refused):
    """The caller's role does not allow an action."""


class EndpointMissing(SlimlineError):
    """There is no endpoint of this name in this region and account."""


class BadAnswer(SlimlineError):
    """A real inference failed or came back empty or malformed."""


_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_INVALID = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch"}
_DENIED = {"AccessDenied", "AccessDeniedException", "403", "Forbidden", "UnauthorizedOperation"}


@contextmanager
def named_errors(action: str) -> Iterator[None]:
    """Turn what time will not mend into a named error. ``action`` is the IAM action: sagemaker:CreateModel.

    Raises:
        NoCredentials, NoRegion, AccessDenied, RefusedRequest: see above; anything else passes unchanged.
    """
    log_in = "log in again (`aws sso login`, or new keys), then run again: what was done already is not repeated"
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise NoCredentials(
            f"{action} needs AWS credentials", observed=str(error), limit="a credential source of boto3's chain",
            remedy="set a profile or a role; for the embedded stack run `slimline up`",
        ) from error  # fmt: skip
    except (TokenRetrievalError, UnauthorizedSSOTokenError) as error:
        raise NoCredentials(
            "the AWS login has expired", observed=str(error), limit="a valid login", remedy=log_in
        ) from error
    except NoRegionError as error:
        raise no_region() from error
    except ClientError as error:
        code, message = error_of(error)
        if code in _EXPIRED | _INVALID:
            cause = "the AWS credentials have expired" if code in _EXPIRED else "AWS does not know these credentials"
            raise NoCredentials(cause, observed=code, limit="valid credentials", remedy=log_in) from error
        if code in _DENIED:
            raise AccessDenied(
                f"this role may not {action}", observed=f"{code}: {message}", limit=f"a policy that allows {action}",
                remedy="attach deployments/aws/release-role-policy.json to the role",
            ) from error  # fmt: skip
        if code in ("ResourceLimitExceeded", "ServiceQuotaExceededException"):
            raise RefusedRequest(
                f"{action}: the account's quota is used up", observed=message, limit="the quota that the message names",
                remedy="ask for more in Service Quotas, or choose another instance type",
            ) from error  # fmt: skip
        raise


def no_region() -> NoRegion:
    return NoRegion(
        "no AWS region is set", observed="none", limit="a region such as eu-central-1",
        remedy="set AWS_REGION, or region in the profile; for the embedded stack run `slimline up`",
    )  # fmt: skip


def error_of(error: ClientError) -> tuple[str, str]:
    """(code, message) of an AWS error."""
    details = error.response.get("Error", {})
    return details.get("Code", ""), details.get("Message", "")


def is_absent(error: ClientError) -> bool:
    """Whether the answer means that the resource does not exist. SageMaker says so in a ValidationException's text."""
    code, message = error_of(error)
    if code in (
        "404",
        "NoSuchKey",
        "NoSuchBucket",
        "NotFound",
        "ResourceNotFound",
        "ResourceNotFoundException",
        "ObjectNotFoundException",
    ):
        return True
    return code == "ValidationException" and ("Could not find" in message or "not found" in message.lower())


def endpoint_missing(endpoint: str, observed: str) -> EndpointMissing:
    return EndpointMissing(
        f"there is no endpoint {endpoint}", observed=observed, limit="an endpoint in service",
        remedy="look for it in the region and account that you are logged in to, or release to create it",
    )  # fmt: skip
