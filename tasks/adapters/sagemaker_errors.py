"""What AWS answers, in words that say what to do.

    SlimlineError
    ├── EndpointMissing        no endpoint of this name
    ├── BadAnswer              the endpoint did not answer a real inference well
    └── see aws_refusals       credentials, region, clock, rights, quotas

Lost connections, throttling and 5xx answers stay botocore's own errors: the caller tries those again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import (
    ClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from tasks.adapters.aws_refusals import (
    LOG_IN,
    AccessDenied,
    ClockWrong,
    KeyDenied,
    NoCredentials,
    NoRegion,
    NotReadyYet,
    QuotaUsedUp,
    WrongRegion,
    named,
)
from tasks.errors import SlimlineError

__all__ = [
    "AccessDenied",
    "BadAnswer",
    "ClockWrong",
    "EndpointMissing",
    "KeyDenied",
    "NoCredentials",
    "NoRegion",
    "NotReadyYet",
    "QuotaUsedUp",
    "WrongRegion",
]


class EndpointMissing(SlimlineError):
    """There is no endpoint of this name in this region and account."""


class BadAnswer(SlimlineError):
    """A real inference failed or came back empty or malformed."""


@contextmanager
def named_errors(action: str) -> Iterator[None]:
    """Turn what time will not mend into a named error. ``action`` is the IAM action: sagemaker:CreateModel.

    Raises:
        NoCredentials, NoRegion, AccessDenied, …: see ``aws_refusals``; anything else passes unchanged.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise NoCredentials(
            f"{action} needs AWS credentials", observed=str(error), limit="a credential source of boto3's chain",
            remedy="set a profile or a role; for the embedded stack run `slimline up`",
        ) from error  # fmt: skip
    except (TokenRetrievalError, UnauthorizedSSOTokenError) as error:
        raise NoCredentials(
            "the AWS login has expired", observed=str(error), limit="a valid login", remedy=LOG_IN
        ) from error
    except NoRegionError as error:
        raise no_region() from error
    except InvalidRegionError as error:
        raise WrongRegion(
            f"{action}: this is no region's name", observed=str(error), limit="a region such as eu-central-1",
            remedy="mend AWS_REGION, or region in the profile",
        ) from error  # fmt: skip
    except S3UploadFailedError as error:
        # boto3 keeps of the answer only its text: whether to try again, and why not, the answer within says.
        if not isinstance(error.__context__, ClientError):
            raise
        raise named(action, *error_of(error.__context__)) or error.__context__ from error
    except ClientError as error:
        if refusal := named(action, *error_of(error)):
            raise refusal from error
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
