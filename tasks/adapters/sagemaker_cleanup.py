"""Remove what a release has made and nothing uses: only what the ledger names, never what an endpoint still holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.dashboards import dashboard_name
from tasks.adapters.ledger import Kind, Ledger, owned_by_another
from tasks.adapters.sagemaker_alarms import standing_names
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.sagemaker_names import PREVIOUS, WANTED, is_name_of, is_own_name
from tasks.adapters.sagemaker_requests import alarm_names
from tasks.errors import ReleaseStuck

DELETE_SECONDS = 900.0


def delete_endpoint(aws: Connection, ledger: Ledger, endpoint: str, poll_seconds: float) -> None:
    """Delete the endpoint and wait until it is gone; absent already is well.

    Raises:
        ReleaseStuck: it is still there after 15 minutes.
    """
    _delete(lambda: aws.call("sagemaker", "DeleteEndpoint", EndpointName=endpoint))
    deadline = time.monotonic() + DELETE_SECONDS
    while _endpoint_exists(aws, endpoint):
        if time.monotonic() > deadline:
            raise ReleaseStuck(
                f"endpoint {endpoint} is still being deleted",
                observed=f"there after {DELETE_SECONDS:.0f} s", limit="gone",
                remedy="look at it in the SageMaker console",
            )  # fmt: skip
        time.sleep(poll_seconds)
    ledger.deleted("endpoint", endpoint)


def remove_alarms(aws: Connection, ledger: Ledger, config: str) -> None:
    """After a rollout: its alarms have no more to say."""
    delete_alarms(aws, alarm_names(config))
    for name in alarm_names(config):
        ledger.deleted("alarm", name)


def delete_alarms(aws: Connection, names: Iterable[str]) -> None:
    """One by one: where one of several is absent, CloudWatch deletes none of them."""
    for name in names:
        _delete(lambda name=name: aws.call("cloudwatch", "DeleteAlarms", AlarmNames=[name]))  # type: ignore[misc]


def sweep(aws: Connection, ledger: Ledger, endpoint: str | None, keep: Iterable[str]) -> list[str]:
    """Delete the recorded configs, models, alarms, dashboards and scalable targets that no endpoint uses. Returns
    ``kind name`` of each.

    Kept: what any endpoint serves or moves to; the configs named in ``keep``, with their models; what another live
    process asked for; with ``endpoint``, what was made for another one, whose previous version is not known here.
    Alarms are kept while their config is moved to: they have no more to say about one that serves. Standing alarms and
    dashboards are kept as long as their endpoint is there.
    """
    endpoints, serving, pending = _in_use(aws)
    configs = _with_previous(aws, serving | pending) | set(keep)
    models = _models_of(aws, configs)
    alarms = {alarm for config in pending for alarm in alarm_names(config)}
    entries = [entry for entry in ledger.open_entries() if not owned_by_another(entry)]
    targets = [entry.name for entry in entries if entry.kind == "scalable-target"]
    scaled = {target for target in targets if target.split("/")[1] in endpoints}
    standing = {name for each in endpoints for name in _standing(aws, each)}
    in_use: dict[Kind, set[str]] = {
        "endpoint-config": configs,
        "model": models,
        "alarm": alarms,
        "scalable-target": scaled,
        "scaling-alarm": _alarms_of(aws, scaled),
        "standing-alarm": standing,
        "dashboard": standing,
    }
    removals: dict[Kind, Callable[[str], object]] = {
        "alarm": lambda name: aws.call("cloudwatch", "DeleteAlarms", AlarmNames=[name]),
        "endpoint-config": lambda name: aws.call("sagemaker", "DeleteEndpointConfig", EndpointConfigName=name),
        "model": lambda name: aws.call("sagemaker", "DeleteModel", ModelName=name),
        "scalable-target": lambda name: _deregister(aws, name),
        "scaling-alarm": lambda name: aws.call("cloudwatch", "DeleteAlarms", AlarmNames=[name]),
        "standing-alarm": lambda name: aws.call("cloudwatch", "DeleteAlarms", AlarmNames=[name]),
        "dashboard": lambda name: aws.call("cloudwatch", "DeleteDashboards", DashboardNames=[name]),
    }
    for entry in entries:
        if entry.kind == "endpoint" and entry.name not in endpoints:
            ledger.deleted("endpoint", entry.name)  # it was asked for and not made, or a person has deleted it
    if endpoint is not None:
        own = _standing(aws, endpoint)
        entries = [
            entry
            for entry in entries
            if is_name_of(endpoint, entry.name) or entry.name.startswith(f"endpoint/{endpoint}/") or entry.name in own
        ]
    swept = []
    for kind, remove in removals.items():
        for entry in entries:
            if entry.kind == kind and entry.name not in in_use[kind]:
                _delete(lambda remove=remove, name=entry.name: remove(name))  # type: ignore[misc]
                ledger.deleted(kind, entry.name)
                swept.append(f"{kind} {entry.name}")
    return swept


def _deregister(aws: Connection, resource: str) -> None:
    """Of an endpoint that is gone: whatever its dimension was."""
    for target in aws.pages(
        "application-autoscaling", "DescribeScalableTargets", "ScalableTargets",
        ServiceNamespace="sagemaker", ResourceIds=[resource],
    ):  # fmt: skip
        aws.call(
            "application-autoscaling", "DeregisterScalableTarget", ServiceNamespace="sagemaker", ResourceId=resource,
            ScalableDimension=target["ScalableDimension"],
        )  # fmt: skip


def _alarms_of(aws: Connection, resources: Iterable[str]) -> set[str]:
    """Alarms that run a policy on one of the variants."""
    return {
        alarm["AlarmName"]
        for resource in resources
        for policy in aws.pages(
            "application-autoscaling", "DescribeScalingPolicies", "ScalingPolicies",
            ServiceNamespace="sagemaker", ResourceId=resource,
        )
        for alarm in policy.get("Alarms", ())
    }  # fmt: skip


def _standing(aws: Connection, endpoint: str) -> set[str]:
    """Names of all that may stand guard over the endpoint."""
    return {*standing_names(endpoint).values(), dashboard_name(endpoint, aws.region)}


def _in_use(aws: Connection) -> tuple[set[str], set[str], set[str]]:
    """(endpoints that there are, configs that serve, configs that an endpoint moves to)"""
    endpoints, serving, pending = set(), set(), set()
    for summary in aws.pages("sagemaker", "ListEndpoints", "Endpoints"):
        try:
            seen = aws.call("sagemaker", "DescribeEndpoint", EndpointName=summary["EndpointName"])
        except ClientError as error:
            if is_absent(error):  # deleted between the two calls
                continue
            raise
        endpoints.add(summary["EndpointName"])
        serving.add(seen["EndpointConfigName"])
        if name := seen.get("PendingDeploymentSummary", {}).get("EndpointConfigName"):
            pending.add(name)
    return endpoints, serving, pending


def _with_previous(aws: Connection, configs: set[str]) -> set[str]:
    """And what comes before or after a trial: the endpoint does not name it, and the trial's end needs it.

    Only Slimline's trials have such tags, and only of its own names the release role may read any.
    """
    found = set(configs)
    for config in filter(is_own_name, configs):
        try:
            arn = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)["EndpointConfigArn"]
        except ClientError as error:
            if is_absent(error):
                continue
            raise
        tags = {tag["Key"]: tag["Value"] for tag in aws.pages("sagemaker", "ListTags", "Tags", ResourceArn=arn)}
        found |= {tags[key] for key in (PREVIOUS, WANTED) if key in tags}
    return found


def _models_of(aws: Connection, configs: set[str]) -> set[str]:
    models = set()
    for config in configs:
        try:
            seen = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)
        except ClientError as error:
            if is_absent(error):
                continue
            raise
        variants = (*seen["ProductionVariants"], *seen.get("ShadowProductionVariants", []))
        models |= {variant["ModelName"] for variant in variants if "ModelName" in variant}
    return models


def _endpoint_exists(aws: Connection, endpoint: str) -> bool:
    try:
        aws.call("sagemaker", "DescribeEndpoint", EndpointName=endpoint)
    except ClientError as error:
        if is_absent(error):
            return False
        raise
    return True


def _delete(remove: Callable[[], object]) -> None:
    try:
        remove()
    except ClientError as error:
        if not is_absent(error):
            raise
