"""Whether what a release needs is there, in this region and closed to others: bucket, execution role, image."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.findings import Finding, look
from tasks.adapters.protection import check_region
from tasks.adapters.sagemaker_errors import error_of, is_absent

_ECR = re.compile(
    r"(\d{12})\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([^@]+)|@(sha256:[0-9a-f]{64}))"
)
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def bucket(aws: Connection, name: str) -> list[Finding]:
    """There, in this region, encrypted, closed to the public."""
    made = "deployments/aws/README.md makes it, step by step"

    def exists() -> Finding:
        try:
            found = aws.call("s3", "HeadBucket", Bucket=name)
        except ClientError as error:
            if is_absent(error):
                return Finding("bucket", "failed", f"{name} does not exist", f"{made}; or set SLIMLINE_BUCKET")
            raise
        there = found.get("BucketRegion", aws.region)
        if there != aws.region:
            remedy = f"use a bucket in {aws.region}, or AWS_REGION={there}"
            return Finding("bucket", "failed", f"{name} lies in {there}, endpoints in {aws.region}", remedy)
        return Finding("bucket", "ok", f"{name} in {there}")

    first = look("bucket", exists)
    if first.state != "ok":
        return [first]
    return [first, _encryption(aws, name, made), _public_access(aws, name, made)]


def _encryption(aws: Connection, name: str, made: str) -> Finding:
    def see() -> Finding:
        try:
            found = aws.call("s3", "GetBucketEncryption", Bucket=name)
        except ClientError as error:
            if error_of(error)[0] == "ServerSideEncryptionConfigurationNotFoundError":
                remedy = f"aws s3api put-bucket-encryption with bucket-encryption.json; {made}"
                return Finding("bucket encryption", "failed", "none by default", remedy)
            raise
        rule = found["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
        return Finding("bucket encryption", "ok", " ".join(rule.values()))

    return look("bucket encryption", see)


def _public_access(aws: Connection, name: str, made: str) -> Finding:
    def see() -> Finding:
        try:
            found = aws.call("s3", "GetPublicAccessBlock", Bucket=name)["PublicAccessBlockConfiguration"]
        except ClientError as error:
            if error_of(error)[0] != "NoSuchPublicAccessBlockConfiguration":
                raise
            found = {}
        if open_ways := [block for block in _BLOCKS if not found.get(block)]:
            remedy = f"aws s3api put-public-access-block with bucket-public-access.json; {made}"
            return Finding("bucket public access", "failed", f"not blocked: {', '.join(open_ways)}", remedy)
        return Finding("bucket public access", "ok", "blocked")

    return look("bucket public access", see)


def role(aws: Connection, arn: str) -> Finding:
    """The execution role is there, and SageMaker may take it on."""

    def see() -> Finding:
        name = arn.rpartition("/")[2]
        try:
            document = aws.call("iam", "GetRole", RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        except ClientError as error:
            if error_of(error)[0] != "NoSuchEntity":
                raise
            remedy = "create it from deployments/aws/execution-role-trust.json, or set SLIMLINE_ROLE_ARN"
            return Finding("execution role", "failed", f"{arn} does not exist", remedy)
        trust = document if isinstance(document, dict) else json.loads(unquote(document))
        if _trusts(trust, "sagemaker.amazonaws.com"):
            return Finding("execution role", "ok", f"{arn}; SageMaker may take it on")
        remedy = "aws iam update-assume-role-policy with deployments/aws/execution-role-trust.json"
        return Finding("execution role", "failed", f"{arn}: SageMaker may not take it on", remedy)

    return look("execution role", see)


def image(aws: Connection, uri: str) -> Finding:
    """In ECR, in this region."""

    def see() -> Finding:
        found = _ECR.fullmatch(uri)
        push = "build and push it (deployments/aws/README.md), then set SLIMLINE_IMAGE"
        if found is None:
            return Finding("image", "failed", f"{uri} is no image of ECR with a tag or a digest", push)
        check_region(aws.region, {"the image": uri})
        account, repository, tag, digest = found.groups()
        wanted = [{"imageTag": tag} if tag else {"imageDigest": digest}]
        try:
            images = aws.call("ecr", "DescribeImages", registryId=account, repositoryName=repository, imageIds=wanted)
        except ClientError as error:
            if error_of(error)[0] in ("RepositoryNotFoundException", "ImageNotFoundException"):
                return Finding("image", "failed", f"{uri}: {error_of(error)[0]}", push)
            raise
        one = images["imageDetails"][0]
        return Finding("image", "ok", f"{uri}, {one.get('imageSizeInBytes', 0) / 1e6:.0f} MB")

    return look("image", see)


def _trusts(document: Mapping[str, Any], service: str) -> bool:
    for statement in document["Statement"]:
        services = statement.get("Principal", {}).get("Service", [])
        actions = statement.get("Action", [])
        if (
            statement["Effect"] == "Allow"
            and service in ([services] if isinstance(services, str) else services)
            and "sts:AssumeRole" in ([actions] if isinstance(actions, str) else actions)
        ):
            return True
    return False
