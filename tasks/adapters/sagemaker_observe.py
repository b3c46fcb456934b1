"""What an endpoint says about itself, and what CloudWatch says about each of its fleets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection, date_of
from tasks.adapters.inference_kinds import kind_of
from tasks.adapters.sagemaker_errors import endpoint_missing, is_absent
from tasks.adapters.sagemaker_metrics import Statistic, requests_of
from tasks.adapters.sagemaker_requests import NAMESPACE, alarm_names, dimensions
from tasks.contracts import FleetShare, Observation
from tasks.scaling_plan import Inference

_ACTIVE = re.compile(r"capacity of (\d+) instance")
_MAX_DATAPOINTS = 1440  # of one GetMetricStatistics answer
_LATENCY_SECONDS = 180.0  # an older latency says nothing about now


@dataclass(frozen=True)
class Serving:
    """An endpoint at one moment. ``instances`` is what its first variant wants now, ``configured_instances`` what its
    config says; they differ when autoscaling or a person has changed the count. ``registered`` and ``version`` name the
    registry's version, from the config's tags."""

    endpoint: str
    arn: str
    status: str
    config: str
    pending_config: str | None
    variants: tuple[str, ...]
    instances: int
    configured_instances: int
    model: str
    registered: str | None
    version: str | None
    failure_reason: str
    inference: Inference = "REAL_TIME"

    @property
    def is_resizing(self) -> bool:
        """Whether instances come or go (autoscaling, or a person) and no deployment is under way."""
        return self.status == "Updating" and self.pending_config is None


def read_serving(aws: Connection, endpoint: str) -> Serving | None:
    """The endpoint, its config, and the version that its model's tags name; none where there is no such endpoint."""
    seen = _describe(aws, endpoint)
    if seen is None:
        return None
    config = aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=seen["EndpointConfigName"])
    variant = config["ProductionVariants"][0]
    # While an endpoint is being created it may have no variants yet.
    fleets = seen.get("ProductionVariants") or [variant]
    tags = read_tags(aws, config["EndpointConfigArn"])
    configured = int(variant.get("InitialInstanceCount", 0))
    return Serving(
        endpoint=endpoint,
        arn=seen["EndpointArn"],
        status=seen["EndpointStatus"],
        config=seen["EndpointConfigName"],
        pending_config=seen.get("PendingDeploymentSummary", {}).get("EndpointConfigName"),
        variants=tuple(fleet["VariantName"] for fleet in fleets),
        instances=int(fleets[0].get("DesiredInstanceCount", configured)),
        configured_instances=configured,
        model=variant.get("ModelName", ""),
        registered=tags.get("slimline:model"),
        version=tags.get("slimline:version"),
        failure_reason=seen.get("FailureReason", ""),
        inference=kind_of(seen),
    )


def read_tags(aws: Connection, arn: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in aws.pages("sagemaker", "ListTags", "Tags", ResourceArn=arn)}


def _describe(aws: Connection, endpoint: str) -> dict[str, Any] | None:
    try:
        return aws.call("sagemaker", "DescribeEndpoint", EndpointName=endpoint)
    except ClientError as error:
        if is_absent(error):
            return None
        raise


def observe(aws: Connection, endpoint: str, blue: str | None, green: str, since: float) -> Observation:
    """One look at a rollout from config ``blue`` to config ``green``.

    Args:
        since: Seconds since 1970 by the service's clock; requests are counted from then on.

    Raises:
        EndpointMissing: there is no such endpoint.
    """
    seen = _describe(aws, endpoint)
    if seen is None:
        raise endpoint_missing(endpoint, "DescribeEndpoint found none")
    now = date_of(seen)
    pending = seen.get("PendingDeploymentSummary", {})
    fleet = _first(pending.get("ProductionVariants"))
    phase = _first(fleet.get("VariantStatus"))
    status = seen["EndpointStatus"] + (f"/{phase['Status']}" if phase else "")
    weights = traffic_shares(seen)
    instances = _instances(seen)

    def share(config: str) -> FleetShare:
        requests, errors = fleet_totals(
            aws, endpoint, config, since, now,
            requests_of(kind_of(seen) == "ASYNC"), ("Invocation5XXErrors", "Sum"), alone=alone_since(seen, config),
        )  # fmt: skip
        average, p90 = _latency(aws, endpoint, config, since, now)
        return FleetShare(
            config=config,
            weight=weights.get(config, 0.0),
            instances=instances.get(config, 0),
            requests=requests,
            errors=errors,
            recent_ms=average,
            recent_p90_ms=p90,
        )

    return Observation(
        at=max(0.0, now - since),
        status=status,
        blue=share(blue) if blue and blue != green else None,
        green=share(green),
        alarms=alarm_states(aws, green),
        message=phase.get("StatusMessage") or seen.get("FailureReason", ""),
    )


def traffic_shares(seen: Mapping[str, Any]) -> dict[str, float]:
    """Share of the traffic by config name, 0–1, from a DescribeEndpoint answer.

    On AWS both fleets of a blue/green update report weight 1, for a weight parts variants within one fleet. The new
    fleet takes traffic in proportion to its activated capacity, which only the variant's StatusMessage tells: "Baking
    for 600 seconds (TerminationWaitInSeconds) with traffic enabled on canary capacity of 1 instance(s)."
    """
    serving = seen["EndpointConfigName"]
    pending = seen.get("PendingDeploymentSummary")
    if not pending or pending["EndpointConfigName"] == serving:
        return {serving: 1.0}
    new = _first(pending.get("ProductionVariants"))
    phase = _first(new.get("VariantStatus"))
    share = 0.0
    if phase.get("Status") == "Baking" and new.get("DesiredInstanceCount"):
        told = _ACTIVE.search(phase.get("StatusMessage", ""))
        active = int(told.group(1)) if told else int(new.get("CurrentInstanceCount", 0))
        share = min(1.0, active / new["DesiredInstanceCount"])
    return {serving: 1.0 - share, pending["EndpointConfigName"]: share}


def _first(items: list[dict[str, Any]] | None) -> dict[str, Any]:
    return items[0] if items else {}


def _instances(seen: Mapping[str, Any]) -> dict[str, int]:
    pending = seen.get("PendingDeploymentSummary", {})
    found = {}
    for config, variants in (
        (seen["EndpointConfigName"], seen.get("ProductionVariants", [])),
        (pending.get("EndpointConfigName"), pending.get("ProductionVariants", [])),
    ):
        if config:
            found[config] = sum(int(variant.get("CurrentInstanceCount", 0)) for variant in variants)
    return found


def alone_since(seen: Mapping[str, Any], config: str) -> float | None:
    """When ``config`` got all the traffic, by a DescribeEndpoint answer, seconds since 1970; none where it has not."""
    serves = seen["EndpointConfigName"] == config and seen["EndpointStatus"] == "InService"
    if not serves or seen.get("PendingDeploymentSummary"):
        return None
    return float(seen["LastModifiedTime"].timestamp())


def fleet_totals(
    aws: Connection,
    endpoint: str,
    config: str,
    since: float,
    now: float,
    *counted: tuple[str, Statistic],
    alone: float | None = None,
) -> tuple[int, ...]:
    """Sums (or counts of samples) of one fleet's metrics between two times of the service's clock.

    From the first whole minute, as the judge counts: an earlier try of this config may have had the one before.
    ``alone``: since when the fleet has had all the traffic, or none.
    """
    start = math.ceil(since / 60) * 60
    span = max(60.0, now - start)
    period = 60 * math.ceil(span / 60 / _MAX_DATAPOINTS)

    def total(metric: str, statistic: Statistic) -> int:
        def sums(of: str | None) -> dict[float, float]:
            answer = aws.call(
                "cloudwatch", "GetMetricStatistics", Namespace=NAMESPACE, MetricName=metric,
                Dimensions=dimensions(endpoint, of), StartTime=datetime.fromtimestamp(start, UTC),
                EndTime=datetime.fromtimestamp(max(now, start + 60), UTC), Period=period, Statistics=[statistic],
            )  # fmt: skip
            return {point["Timestamp"].timestamp(): point[statistic] for point in answer["Datapoints"]}

        own = sums(config)
        if alone is not None and all(at < alone for at in own):
            own = own_or_whole(own, sums(None), alone)
        return round(sum(own.values()))

    return tuple(total(*each) for each in counted)


def own_or_whole(own: Mapping[float, float], whole: Mapping[float, float], alone: float) -> dict[float, float]:
    """A fleet's own values by time, and where it has none the variant's of all fleets, since it has been ``alone``.

    AWS says that metrics with EndpointConfigName begin when a new fleet gets traffic and last after its deployment; of
    an endpoint that was created and never updated it says nothing.
    """
    return {at: value for at, value in whole.items() if at >= alone} | dict(own)


def _latency(
    aws: Connection, endpoint: str, config: str, since: float, now: float
) -> tuple[float | None, float | None]:
    """(average, 90th percentile) of one fleet's ModelLatency in its newest minute with answers, milliseconds."""
    end = max(now, since + 60)
    metric = {"Namespace": NAMESPACE, "MetricName": "ModelLatency", "Dimensions": dimensions(endpoint, config)}
    stats = ("Average", "p90")
    queries = [{"Id": stat.lower(), "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}} for stat in stats]
    answer = aws.call(
        "cloudwatch", "GetMetricData", MetricDataQueries=queries, ScanBy="TimestampDescending",
        StartTime=datetime.fromtimestamp(max(since - 60, end - _LATENCY_SECONDS), UTC),
        EndTime=datetime.fromtimestamp(end, UTC),
    )  # fmt: skip
    newest = {result["Id"]: result["Values"][0] / 1e3 for result in answer["MetricDataResults"] if result["Values"]}
    return newest.get("average"), newest.get("p90")


def alarm_states(aws: Connection, config: str) -> dict[str, str]:
    answer = aws.call("cloudwatch", "DescribeAlarms", AlarmNames=list(alarm_names(config)))
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in answer.get("MetricAlarms", [])}
