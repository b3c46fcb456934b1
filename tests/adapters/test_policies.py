"""The IAM policy that a person applies allows what the adapter does, and nothing else."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from tasks.adapters.sagemaker_limits import service_model

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = [
    *sorted((ROOT / "tasks/adapters").glob("sagemaker*.py")),
    ROOT / "tasks/adapters/aws_connection.py",
    ROOT / "tasks/adapters/model_upload.py",
    ROOT / "tasks/adapters/captures.py",
]
# What one call of boto3 is to IAM, where the names differ.
S3_ACTIONS = {
    "HeadBucket": {"ListBucket"},
    "HeadObject": {"GetObject"},
    "ListObjectsV2": {"ListBucket"},
    "PutObject": {"PutObject", "AbortMultipartUpload"},  # upload_file sends large files in parts
}
EMBEDDED_ONLY = {("s3", "CreateBucket")}
IMPLIED = {
    "iam:PassRole",  # CreateModel hands over the execution role
    "cloudwatch:TagResource",  # PutMetricAlarm carries tags
    "s3:ListBucket",  # HeadObject of an absent key answers 404 only with it, 403 without
}


def calls() -> set[tuple[str, str]]:
    """(service, operation) of every operation's name that stands in the adapter's source as an argument of a call."""
    operations = {
        operation: service.removesuffix("-runtime")
        for service in ("s3", "cloudwatch", "sagemaker", "sagemaker-runtime")
        for operation in service_model(service).operation_names
    }
    found = set()
    for path in ADAPTER:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and argument.value in operations:
                        found.add((operations[argument.value], argument.value))
    return found


def actions(policy: str) -> set[str]:
    document: dict[str, Any] = json.loads((ROOT / "deployments/aws" / policy).read_text())
    return {action for statement in document["Statement"] for action in statement["Action"]}


def test_the_release_role_may_do_exactly_what_the_adapter_calls() -> None:
    needed = {
        f"{service}:{action}"
        for service, operation in calls() - EMBEDDED_ONLY
        for action in (S3_ACTIONS.get(operation, {operation}) if service == "s3" else {operation})
    }
    assert needed | IMPLIED == actions("release-role-policy.json")


def test_the_finder_sees_the_calls() -> None:
    assert {("sagemaker", "CreateModel"), ("sagemaker", "InvokeEndpoint"), ("cloudwatch", "PutMetricAlarm")} <= calls()


def test_no_policy_uses_wildcard_actions() -> None:
    for policy in ("release-role-policy.json", "execution-role-policy.json"):
        assert not {action for action in actions(policy) if "*" in action}
