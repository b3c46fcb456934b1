"""Encryption and network of what a release makes: one KMS key, and the subnets that its containers run in.

Without them AWS's own keys encrypt (S3: SSE-S3, volumes: SageMaker's key) and containers are in SageMaker's network.
API: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpointConfig.html (KmsKeyId).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.adapters.aws_refusals import WrongRegion
from tasks.errors import RefusedRequest

# "If any of the models … use nitro-based instances with local storage, do not specify a value for KmsKeyId": the call
# fails. A hardware module on the instance encrypts that storage.
_LOCAL_STORAGE = re.compile(
    r"ml\.([cmrx]\d[a-z]*d[a-z]*|g4dn|g5|g6[a-z]*|gr6[a-z]*|g7[a-z]*|p4d[a-z]*|p[5-9].*|trn\d.*)\."
)
_ARN = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:([a-z0-9-]*):")
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?/.+")


@dataclass(frozen=True)
class Protection:
    """``kms_key``: a key's ARN or id. ``subnets`` and ``security_groups``: both or none."""

    kms_key: str = ""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.subnets) != bool(self.security_groups):
            raise RefusedRequest(
                "a VPC needs subnets and security groups",
                observed=f"{len(self.subnets)} subnets, {len(self.security_groups)} security groups",
                limit="both or none", remedy="set SLIMLINE_SUBNETS and SLIMLINE_SECURITY_GROUPS, or unset both",
            )  # fmt: skip

    def of_model(self) -> dict[str, Any]:
        """Further fields of CreateModel."""
        if not self.subnets:
            return {}
        return {"VpcConfig": {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}}

    def of_config(self, *instance_types: str) -> dict[str, Any]:
        """Further fields of CreateEndpointConfig for variants on these instances."""
        return self.of_capture() if not any(_LOCAL_STORAGE.match(each) for each in instance_types) else {}

    def of_capture(self) -> dict[str, Any]:
        """Further fields of a DataCaptureConfig."""
        return {"KmsKeyId": self.kms_key} if self.kms_key else {}

    def of_upload(self) -> dict[str, Any]:
        """Further fields of an object's upload."""
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key} if self.kms_key else {}


UNPROTECTED = Protection()


def check_region(region: str, places: Mapping[str, str]) -> None:
    """Refuse an ARN or an image of ECR in another region. ``places``: what it is for, and the ARN or image.

    Raises:
        WrongRegion: naming it.
    """
    for what, value in places.items():
        found = _ARN.match(value) or _ECR.fullmatch(value)
        if found and found.group(1) not in ("", region):
            raise WrongRegion(
                f"{what} lies in another region than the endpoint", observed=value, limit=f"region {region}",
                remedy=f"use one of {region} (an image: push it there too), or set AWS_REGION={found.group(1)}",
            )  # fmt: skip
