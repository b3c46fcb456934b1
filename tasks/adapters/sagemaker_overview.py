"""Every endpoint as a person wants to see it: fleets, variants, shares of the traffic, versions, evidence, alarms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection, date_of
from tasks.adapters.inference_kinds import kind_of
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.sagemaker_history import History, read_history
from tasks.adapters.sagemaker_metrics import requests_of
from tasks.adapters.sagemaker_names import is_name_of, is_own_name
from tasks.adapters.sagemaker_observe import alarm_states, read_tags, traffic_shares
from tasks.adapters.sagemaker_requests import NAMESPACE, dimensions
from tasks.adapters.scaling_overview import ScalingView, scaling_view

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import DimensionTypeDef

EVIDENCE_SECONDS = 3600.0  # of the service's clock: what the counts cover
_SERIES = {"f": ("Invocation5XXErrors", "Sum"), "a": ("ModelLatency", "Average")}


@dataclass(frozen=True)
class VariantView:
    """One variant of one fleet. Counts are of the last hour by the service's clock; ``average_ms`` of its newest minute
    with answers.
    """

    config: str
    role: Literal["serving", "new", "shadow"]
    variant: str
    model: str
    version: str
    share: float
    instances: int
    wanted_instances: int
    requests: int
    errors: int
    average_ms: float | None


@dataclass(frozen=True)
class EndpointView:
    """``phase`` is the pending variant's status, Baking, with SageMaker's words in ``message``. ``open_move``: a
    release or a restore that is under way, or whose run has died.
    """

    name: str
    status: str
    phase: str
    message: str
    variants: tuple[VariantView, ...]
    alarms: Mapping[str, str]
    previous_config: str | None
    open_move: str
    scaling: tuple[ScalingView, ...] = ()


def overview(aws: Connection, only: str | None = None) -> list[EndpointView]:
    """Every endpoint of the region and account, or the one called ``only``, by name."""
    names = [only] if only else [each["EndpointName"] for each in aws.pages("sagemaker", "ListEndpoints", "Endpoints")]
    found = []
    for name in sorted(names):
        try:
            found.append(_endpoint(aws, name))
        except ClientError as error:
            if not is_absent(error):  # else deleted between the two calls
                raise
    return found


def _endpoint(aws: Connection, name: str) -> EndpointView:
    seen = aws.call("sagemaker", "DescribeEndpoint", EndpointName=name)
    pending = seen.get("PendingDeploymentSummary", {})
    configs = (seen["EndpointConfigName"], pending.get("EndpointConfigName") or "")
    # Slimline's names begin with the endpoint's; the tags of other people's endpoints are not ours to read.
    own = any(is_name_of(name, config) for config in configs)
    history = read_history(aws, seen["EndpointArn"]) if own else History()
    phases = [phase for variant in pending.get("ProductionVariants", []) for phase in variant.get("VariantStatus", [])]
    phase = phases[0] if phases else {}
    move = f"{history.purpose} of {history.moving_to}" if history.open else ""
    watched = {config for config in (pending.get("EndpointConfigName"), history.moving_to) if config}
    return EndpointView(
        name=name,
        status=seen["EndpointStatus"],
        phase=phase.get("Status", ""),
        message=phase.get("StatusMessage") or seen.get("FailureReason", ""),
        variants=tuple(_variants(aws, name, seen)),
        alarms={alarm: state for config in sorted(watched) for alarm, state in alarm_states(aws, config).items()},
        previous_config=history.previous,
        open_move=move,
        scaling=scaling_view(aws, name),
    )


def _variants(aws: Connection, name: str, seen: Mapping[str, Any]) -> Iterator[VariantView]:
    shares, now = traffic_shares(seen), date_of(dict(seen))
    pending = seen.get("PendingDeploymentSummary", {})
    for role, fleet in (("serving", seen), ("new", pending)):
        config = fleet.get("EndpointConfigName")
        if not config or (role == "new" and config == seen["EndpointConfigName"]):
            continue
        model, version = _version(aws, config)
        production, shadows = fleet.get("ProductionVariants", []), fleet.get("ShadowProductionVariants", [])
        weights = sum(each.get("CurrentWeight", 0.0) for each in production) or 1.0
        for each in (*production, *shadows):
            shadow = each in shadows
            part = 0.0 if shadow else shares.get(config, 0.0) * each.get("CurrentWeight", 0.0) / weights
            # AWS tells fleets apart while a deployment is under way; else the variant's metrics are this fleet's.
            dims = dimensions(name, config if pending else None, each["VariantName"])
            requests, errors, average = _evidence(aws, dims, now, kind_of(seen) == "ASYNC")
            yield VariantView(
                config, "shadow" if shadow else role, each["VariantName"], model, version, part,  # type: ignore[arg-type]
                int(each.get("CurrentInstanceCount", 0)), int(each.get("DesiredInstanceCount", 0)),
                requests, errors, average,
            )  # fmt: skip


def _version(aws: Connection, config: str) -> tuple[str, str]:
    """(name, version) in the registry; empty for a config that Slimline did not make, or that was deleted in use."""
    if not is_own_name(config):
        return "", ""
    try:
        arn = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)["EndpointConfigArn"]
    except ClientError as error:
        if is_absent(error):
            return "", ""
        raise
    tags = read_tags(aws, arn)
    return tags.get("slimline:model", ""), tags.get("slimline:version", "")


def _evidence(
    aws: Connection, dims: list[DimensionTypeDef], now: float, asynchronous: bool
) -> tuple[int, int, float | None]:
    """(requests, 5xx answers, average ModelLatency of the newest minute in milliseconds) of the last hour."""
    series = {"n": requests_of(asynchronous), **_SERIES}
    queries = [
        {
            "Id": key,
            "MetricStat": {
                "Metric": {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": dims},
                "Period": 60,
                "Stat": stat,
            },
        }
        for key, (metric, stat) in series.items()
    ]
    values: dict[str, list[float]] = {key: [] for key in series}
    for result in aws.pages(
        "cloudwatch", "GetMetricData", "MetricDataResults", MetricDataQueries=queries, ScanBy="TimestampDescending",
        StartTime=datetime.fromtimestamp(now - EVIDENCE_SECONDS, UTC), EndTime=datetime.fromtimestamp(now + 60, UTC),
    ):  # fmt: skip
        values[result["Id"]] += result["Values"]
    average = values["a"][0] / 1e3 if values["a"] else None
    return round(sum(values["n"])), round(sum(values["f"])), average
