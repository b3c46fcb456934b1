"""IAM as the policy tests need it: what a call of boto3 is to IAM, and whether a policy's text allows it.

https://docs.aws.amazon.com/service-authorization/latest/reference/ has the actions, resources and condition keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

AWS = Path(__file__).resolve().parents[2] / "deployments/aws"
REGION, ACCOUNT = "us-east-1", "123456789012"

# IAM's name of a service, where it is not boto3's.
PREFIXES = {"sagemaker-runtime": "sagemaker", "service-quotas": "servicequotas", "stepfunctions": "states"}
# What one call of boto3 is to IAM, where the names differ.
ACTIONS: dict[tuple[str, str], set[str]] = {
    ("s3", "HeadBucket"): {"s3:ListBucket"},
    ("s3", "HeadObject"): {"s3:GetObject"},
    ("s3", "ListObjectsV2"): {"s3:ListBucket"},
    ("s3", "GetBucketEncryption"): {"s3:GetEncryptionConfiguration"},
    ("s3", "GetPublicAccessBlock"): {"s3:GetBucketPublicAccessBlock"},
    ("s3", "DeleteObjects"): {"s3:DeleteObject"},
    ("s3", "CopyObject"): {"s3:GetObject", "s3:PutObject"},
    # upload_file sends large files in parts.
    ("s3", "PutObject"): {"s3:PutObject", "s3:AbortMultipartUpload"},
    ("s3", "CreateMultipartUpload"): {"s3:PutObject"},
    ("s3", "UploadPart"): {"s3:PutObject"},
    ("s3", "CompleteMultipartUpload"): {"s3:PutObject"},
    ("s3", "ListParts"): {"s3:ListMultipartUploadParts"},
    ("s3", "ListMultipartUploads"): {"s3:ListBucketMultipartUploads"},
    ("sagemaker-runtime", "InvokeEndpointWithResponseStream"): {"sagemaker:InvokeEndpoint"},
    ("sts", "GetCallerIdentity"): set(),  # needs no right
}
# What IAM asks for beside a call's own action.
BESIDE: dict[str, set[str]] = {
    "sagemaker:CreateModel": {"iam:PassRole"},  # hands over the execution role
    "cloudwatch:PutMetricAlarm": {"cloudwatch:TagResource"},  # carries tags
    # The first of an account makes Application Auto Scaling's own role.
    "application-autoscaling:RegisterScalableTarget": {"iam:CreateServiceLinkedRole"},
    "s3:GetObject": {"s3:ListBucket"},  # HeadObject of an absent key answers 404 only with it, 403 without
}


def actions_of(service: str, operation: str) -> set[str]:
    """The IAM actions of one call."""
    if (service, operation) in ACTIONS:
        return ACTIONS[service, operation]
    return {f"{PREFIXES.get(service, service)}:{operation}"}


def filled(file: str, **names: str) -> str:
    """A policy file with its placeholders filled in: the embedded stack's account and region."""
    text = (AWS / file).read_text()
    for placeholder, value in {"REGION": REGION, "ACCOUNT": ACCOUNT, "BUCKET": "slimline-test", **names}.items():
        text = text.replace(placeholder, value)
    return text


def allowed(statements: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, Any]) -> bool:
    """As IAM decides it for identity policies: something allows, nothing denies."""
    verdicts = {
        statement["Effect"] for statement in statements
        if action in _listed(statement["Action"])
        and any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"]))
        and _holds(statement.get("Condition", {}), context)
    }  # fmt: skip
    return verdicts == {"Allow"}


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, Any]) -> bool:
    return all(
        _one(operator, context.get(key), _listed(wanted))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _one(operator: str, value: Any, wanted: list[str]) -> bool:
    """One key of one operator; the operators that the files use, any other is an error."""
    if operator == "ForAllValues:StringLike":
        return all(any(fnmatchcase(each, pattern) for pattern in wanted) for each in _listed(value or []))
    if operator in ("StringLikeIfExists", "StringEqualsIfExists"):
        return value is None or _one(operator.removesuffix("IfExists"), value, wanted)
    if operator == "StringLike":
        return value is not None and any(fnmatchcase(value, pattern) for pattern in wanted)
    if operator == "StringEquals":
        return value in wanted
    raise NotImplementedError(operator)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def resources_of(service: str, params: Mapping[str, Any]) -> list[str]:
    """The ARNs that a call is about; ``*`` where it is about none."""
    prefix = PREFIXES.get(service, service)
    place = f"arn:aws:{prefix}:{REGION}:{ACCOUNT}"
    kinds = {"EndpointName": "endpoint", "EndpointConfigName": "endpoint-config", "ModelName": "model"}
    kinds |= {"TransformJobName": "transform-job"}
    found = [f"{place}:{kind}/{params[name]}" for name, kind in kinds.items() if name in params]
    found += [f"{place}:alarm:{name}" for name in (*params.get("AlarmNames", ()), params.get("AlarmName")) if name]
    boards = (*params.get("DashboardNames", ()), params.get("DashboardName"))
    found += [f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{name}" for name in boards if name]
    if "HubContentName" in params:  # the public hub is AWS's own
        hub, kind = params["HubName"], params["HubContentType"]
        found = [f"arn:aws:sagemaker:{REGION}:aws:hub-content/{hub}/{kind}/{params['HubContentName']}"]
    found += [params["ResourceArn"]] if "ResourceArn" in params else []
    if "Bucket" in params:
        found.append("/".join(["arn:aws:s3:::" + params["Bucket"], *([params["Key"]] if "Key" in params else [])]))
    return found or ["*"]


def context_of(service: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The condition keys that AWS would fill in."""
    found: dict[str, Any] = {"aws:RequestedRegion": REGION}
    if service == "s3":
        found["aws:ResourceAccount"] = ACCOUNT
        if "Prefix" in params:
            found["s3:prefix"] = params["Prefix"]
    if service == "application-autoscaling":
        found["application-autoscaling:service-namespace"] = params.get("ServiceNamespace")
    tags = {tag["Key"]: tag["Value"] for tag in params.get("Tags", ())}
    if tags:
        found["aws:TagKeys"] = list(tags)
        found |= {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    return found


def statement_for(actions: Iterable[str]) -> str:
    """What to paste into a policy: the resources are still to be narrowed."""
    return json.dumps({"Sid": "…", "Effect": "Allow", "Action": sorted(actions), "Resource": "…"})
