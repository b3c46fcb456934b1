"""Whether an account is ready for a release: its identity, region, clock, rights and quotas. Nothing is changed."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from tasks.adapters.aws_connection import Connection
from tasks.adapters.findings import Finding, look

MAX_SKEW = 300.0  # seconds; SigV4 requests older than five minutes are refused
_ASSUMED = re.compile(r"arn:([a-z-]+):sts::(\d+):assumed-role/([^/]+)/.*")


def identity(aws: Connection) -> tuple[Finding, str]:
    """Who asks, and its ARN as IAM knows it; an empty one where nobody may ask."""
    caller: list[str] = []

    def see() -> Finding:
        found = aws.call("sts", "GetCallerIdentity")
        caller.append(_ASSUMED.sub(r"arn:\1:iam::\2:role/\3", found["Arn"]))
        return Finding("credentials", "ok", f"{found['Arn']} in account {found['Account']}")

    return look("credentials", see), "".join(caller)


def clock(aws: Connection) -> Finding:
    """This machine's clock beside the service's, from the Date of an unsigned request: no credentials needed."""

    def see() -> Finding:
        url = aws.client("sts").meta.endpoint_url
        before = time.time()
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                date = answer.headers["Date"]
        except urllib.error.HTTPError as error:
            date = error.headers["Date"]
        off = parsedate_to_datetime(date).timestamp() - (before + time.time()) / 2
        seen = f"{abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} {url}"
        if abs(off) <= MAX_SKEW:
            return Finding("clock", "ok", seen)
        remedy = "let NTP set this machine's clock (`timedatectl set-ntp true`): AWS refuses what it signs"
        return Finding("clock", "failed", f"{seen}; at most {MAX_SKEW:.0f} s", remedy)

    return look("clock", see)


def region(aws: Connection) -> Finding:
    """Whether SageMaker is in the region, as far as this botocore knows."""
    known = {name for kind in ("aws", "aws-cn", "aws-us-gov") for name in aws.regions(kind)}
    if aws.region in known:
        return Finding("region", "ok", aws.region)
    return Finding(
        "region", "failed", f"{aws.region}: botocore knows no SageMaker there",
        "mend AWS_REGION (eu-central-1, us-east-1, …), or update boto3 when the region is new",
    )  # fmt: skip


def rights(aws: Connection, check: str, role: str, statements: Iterable[Mapping[str, Any]], remedy: str) -> Finding:
    """What IAM says to every action of the statements, simulated as ``role``."""

    def see() -> Finding:
        denied: list[str] = []
        asked = 0
        for statement in statements:
            request = {"PolicySourceArn": role, "ActionNames": statement["Action"], **_example(statement)}
            answer = aws.call("iam", "SimulatePrincipalPolicy", **request)
            results = answer["EvaluationResults"]
            asked += len(statement["Action"])
            denied += [each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"]
        if denied:
            return Finding(check, "failed", f"{role} may not {', '.join(sorted(set(denied)))}", remedy)
        return Finding(check, "ok", f"{role}: {asked} actions allowed")

    return look(check, see)


def quota(aws: Connection, instance_type: str, needed: int) -> Finding:
    """How many instances of the type endpoints may have; a blue/green release needs twice the fleet for a while."""
    name = f"{instance_type} for endpoint usage"

    def see() -> Finding:
        pages = aws.pages("service-quotas", "ListServiceQuotas", "Quotas", ServiceCode="sagemaker")
        found = next((each for each in pages if each["QuotaName"] == name), None)
        ask = f"ask for {needed} in Service Quotas → Amazon SageMaker → {name}, or choose another instance type"
        if found is None:
            return Finding("quota", "unknown", f"no quota is called {name}", ask)
        if found["Value"] < needed:
            return Finding("quota", "failed", f"{name}: {found['Value']:.0f}, needed {needed}", ask)
        return Finding("quota", "ok", f"{name}: {found['Value']:.0f}, needed {needed}")

    return look("quota", see)


def _example(statement: Mapping[str, Any]) -> dict[str, Any]:
    """Resources and context of one request that a statement allows: its patterns with their stars filled in."""
    resources = statement["Resource"]
    patterns = [resources] if isinstance(resources, str) else resources
    request: dict[str, Any] = {"ResourceArns": [each if each == "*" else each.replace("*", "x") for each in patterns]}
    entries: list[dict[str, Any]] = []
    for operator, keys in statement.get("Condition", {}).items():
        for key, values in keys.items():
            given = [values] if isinstance(values, str) else values
            entries.append({
                "ContextKeyName": key,
                "ContextKeyType": "stringList" if operator.startswith("ForAllValues") else "string",
                "ContextKeyValues": [each.replace("*", "x") for each in (given if "For" in operator else given[:1])],
            })  # fmt: skip
    return request | ({"ContextEntries": entries} if entries else {})
