"""The error codes of AWS that time, or the same request again, will not mend; each with a name and a remedy.

Codes that every service has: https://docs.aws.amazon.com/sagemaker/latest/APIReference/CommonErrors.html, S3's own:
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. SageMaker tells much by a ValidationException
whose text alone says what it is, so some rows read the text. docs/aws.md has this table for people.

    Refused
    ├── NoCredentials      none found, expired, or unknown
    ├── NoRegion           neither an argument nor the profile names one
    ├── WrongRegion        something lies in another region than the one that is asked
    ├── ClockWrong         this machine's clock is too far from AWS's
    ├── AccessDenied       the role lacks one action
    │   └── KeyDenied          the KMS key does not let it in
    └── RefusedRequest
        └── QuotaUsedUp        the account may have no more of it
    NotReadyYet            IAM spreads a new role or policy within seconds; worth another try
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tasks.errors import Refused, RefusedRequest, SlimlineError


class NoCredentials(Refused):
    """AWS credentials are missing, unknown or have expired."""


class NoRegion(Refused):
    """No AWS region is set."""


class WrongRegion(Refused):
    """A bucket, an image or a key lies in another region than the one that is asked."""


class ClockWrong(Refused):
    """AWS refuses signatures that are more than some minutes old, or from the future."""


class AccessDenied(Refused):
    """The caller's role does not allow an action."""


class KeyDenied(AccessDenied):
    """The KMS key's policy does not let this role, or SageMaker, use it."""


class QuotaUsedUp(RefusedRequest):
    """The account's quota in this region is used up, or is 0."""


class NotReadyYet(SlimlineError):
    """SageMaker cannot take on the execution role, or cannot read as it. New roles and policies need some seconds."""

    transient = True


LOG_IN = "log in again (`aws sso login`, or new keys), then run again: what was done already is not repeated"
SET_CLOCK = "let NTP set this machine's clock (`timedatectl set-ntp true`), then run again"
_REGION = "use a bucket, an image and a key of the region that AWS_REGION names, or change AWS_REGION"
_SIGNATURE = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
_VALIDATION = frozenset({"ValidationException"})


@dataclass(frozen=True)
class Row:
    """Answers with one of ``codes`` (and a text that ``text`` finds) are ``error``. ``{action}`` is filled in."""

    error: type[SlimlineError]
    codes: frozenset[str]
    cause: str
    limit: str
    remedy: str
    text: str = ""

    def fits(self, code: str, message: str) -> bool:
        return code in self.codes and re.search(self.text, message, re.IGNORECASE) is not None

    def named(self, action: str, code: str, message: str) -> SlimlineError:
        return self.error(
            self.cause.format(action=action), observed=f"{code}: {message}".removesuffix(": "),
            limit=self.limit.format(action=action), remedy=self.remedy,
        )  # fmt: skip


# The first row that fits counts.
ROWS = (
    Row(ClockWrong, frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}),
        "{action}: this machine's clock and AWS's differ too much", "at most 5 minutes (S3: 15)", SET_CLOCK),
    Row(ClockWrong, _SIGNATURE, "{action}: this machine's clock and AWS's differ too much",
        "at most 5 minutes (S3: 15)", SET_CLOCK, text="signature (expired|not yet current)"),
    Row(NoCredentials, frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}),
        "the AWS credentials have expired", "valid credentials", LOG_IN),
    Row(NoCredentials,
        _SIGNATURE | {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId",
                      "MissingAuthenticationToken", "MissingAuthenticationTokenException", "InvalidToken"},
        "AWS does not know these credentials", "valid credentials", LOG_IN),
    Row(NotReadyYet, _VALIDATION, "{action}: SageMaker cannot take on the execution role",
        "a role that exists and that sagemaker.amazonaws.com may take on; a new one needs some seconds",
        "wait a minute and run again; else mend SLIMLINE_ROLE_ARN, or the role's trust policy "
        "(deployments/aws/execution-role-trust.json)", text="could not assume role|assumerole on the execution"),
    Row(NotReadyYet, _VALIDATION, "{action}: SageMaker cannot read the model with the execution role",
        "s3:GetObject and s3:ListBucket on the bucket's models/*, in this region; a new policy needs some seconds",
        "wait a minute and run again; else put deployments/aws/execution-role-policy.json on the role",
        text="could not (find|access) model data"),
    Row(KeyDenied, frozenset({"KMSAccessDeniedException", "KMS.DisabledException", "KMS.NotFoundException",
                              "KMS.KMSInvalidStateException", "KMSDisabledException", "KMSNotFoundException"}),
        "{action}: the KMS key cannot be used", "an enabled key whose policy names this role",
        "apply deployments/aws/kms-key-policy.json to the key, or unset SLIMLINE_KMS_KEY"),
    Row(KeyDenied, frozenset({"AccessDenied", "AccessDeniedException", "ValidationException"}),
        "{action}: the KMS key cannot be used", "an enabled key whose policy names this role",
        "apply deployments/aws/kms-key-policy.json to the key, or unset SLIMLINE_KMS_KEY",
        text=r"\bkms:(Decrypt|GenerateDataKey|CreateGrant|DescribeKey|Encrypt|ReEncrypt)"),
    Row(WrongRegion, frozenset({"PermanentRedirect", "301", "AuthorizationHeaderMalformed",
                                "IllegalLocationConstraintException"}),
        "{action}: the bucket lies in another region", "a bucket of the region that is asked", _REGION),
    Row(WrongRegion, frozenset({"OptInRequired", "InvalidRegion"}),
        "{action}: this account does not use this region", "a region that is switched on for the account",
        "switch the region on in the account's settings, or change AWS_REGION"),
    Row(WrongRegion, _VALIDATION, "{action}: something lies in another region", "everything in one region", _REGION,
        text=r"\b(same|different|wrong|another|other) region\b|not in (the )?region"),
    Row(QuotaUsedUp,
        frozenset({"ResourceLimitExceeded", "ServiceQuotaExceededException", "LimitExceeded", "LimitExceededFault",
                   "LimitExceededException"}),
        "{action}: the account's quota is used up", "the quota that the message names",
        "ask for more in Service Quotas (`slimline doctor --aws` names the quota), or choose another instance type"),
    Row(AccessDenied,
        frozenset({"AccessDenied", "AccessDeniedException", "403", "Forbidden", "UnauthorizedOperation"}),
        "this role may not {action}", "a policy that allows {action}",
        "attach deployments/aws/release-role-policy.json to the role"),
)  # fmt: skip


def named(action: str, code: str, message: str) -> SlimlineError | None:
    """The named error of an answer, or none where time may mend it (throttling, 5xx) or its caller knows better."""
    row = next((row for row in ROWS if row.fits(code, message)), None)
    return row.named(action, code, message) if row else None
