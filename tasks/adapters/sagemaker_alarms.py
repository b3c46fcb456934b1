"""The standing alarms of an endpoint, as plain values: no calls, no clock, no environment.

Namespaces, dimensions and units as AWS documents them
(https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html): invocations in AWS/SageMaker, latency in
microseconds; instances in /aws/sagemaker/Endpoints, in percent, CPUUtilization up to 100 a core, GPUUtilization and
GPUMemoryUtilization up to 100 a GPU. All by {EndpointName, VariantName}: whichever fleet serves. An alarm's name is
made of the endpoint and of what it watches, so a later release with other limits changes the same alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.adapters.instance_shapes import cores, gpus
from tasks.adapters.sagemaker_names import VARIANT
from tasks.adapters.sagemaker_requests import ALARM_PERIOD, NAMESPACE, dimensions
from tasks.monitoring_plan import MonitoringPlan

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef, PutMetricAlarmInputTypeDef, TagTypeDef

INSTANCES = "/aws/sagemaker/Endpoints"
KINDS = ("errors", "p90", "p99", "cpu", "gpu", "gpu-memory", "memory", "disk")
OF_THE_VERSION = ("errors", "p90", "p99")  # what a bad version does; load is the traffic's as well


@dataclass(frozen=True)
class Load:
    """A metric of the instances with its limit, 0–100 % of a whole instance. ``scale``: cores or GPUs; none: it is not
    known how many, and there is no alarm. 0: there are none.
    """

    kind: str
    metric: str
    limit: float
    scale: int | None


def alarm_name(endpoint: str, kind: str) -> str:
    return f"{endpoint}-standing-{kind}"


def standing_names(endpoint: str) -> dict[str, str]:
    """Every standing alarm that the endpoint may have, by what it watches."""
    return {kind: alarm_name(endpoint, kind) for kind in KINDS}


def loads(plan: MonitoringPlan, instance_type: str) -> list[Load]:
    """What is watched of the instances; what they do not have is left out."""
    gpu = gpus(instance_type)
    found = [
        Load("cpu", "CPUUtilization", plan.max_cpu_percent, cores(instance_type)),
        Load("gpu", "GPUUtilization", plan.max_gpu_percent, gpu),
        Load("gpu-memory", "GPUMemoryUtilization", plan.max_gpu_memory_percent, gpu),
        Load("memory", "MemoryUtilization", plan.max_memory_percent, 1),
        Load("disk", "DiskUtilization", plan.max_disk_percent, 1),
    ]
    return [load for load in found if load.limit and load.scale != 0]


def left_out(plan: MonitoringPlan, instance_type: str) -> list[str]:
    """A sentence for each alarm that cannot be made."""
    unknown = [load for load in loads(plan, instance_type) if load.scale is None] if plan.alarms else []
    return [
        f"no alarm on {load.metric}: how many of them {instance_type} has is not known, and its percent are added up"
        for load in unknown
    ]


def standing_alarms(
    endpoint: str, plan: MonitoringPlan, instance_type: str, tags: Sequence[TagTypeDef] = ()
) -> list[PutMetricAlarmInputTypeDef]:
    """The requests that make the alarms which ``plan`` wants on ``instance_type``."""
    if not plan.alarms:
        return []
    return [
        {**request, "Tags": list(tags)}
        for request in (*_invocations(endpoint, plan), *_instances(endpoint, plan, instance_type))
    ]


def _invocations(endpoint: str, plan: MonitoringPlan) -> Iterator[PutMetricAlarmInputTypeDef]:
    if plan.max_error_rate:
        words = f"5xx answers ÷ requests of a minute with at least {plan.min_requests} requests"
        yield {
            **_alarm(endpoint, plan, "errors", plan.max_error_rate, words),
            "Metrics": _error_rate(endpoint, plan),
        }
    for kind, limit in (("p90", plan.max_p90_ms), ("p99", plan.max_p99_ms)):
        if limit:
            yield {
                **_alarm(endpoint, plan, kind, limit * 1000, f"{kind} of ModelLatency, microseconds"),
                "Namespace": NAMESPACE,
                "MetricName": "ModelLatency",
                "Dimensions": dimensions(endpoint, None, VARIANT),
                "ExtendedStatistic": kind,
                # `ignore` would want ten requests beyond the percentile in a minute, 1,000 for p99, or say nothing.
                # Of a few requests it is the slowest one: that this lasts for minutes is what the alarm asks for.
                "EvaluateLowSampleCountPercentile": "evaluate",
                "Period": ALARM_PERIOD,
            }


def _instances(endpoint: str, plan: MonitoringPlan, instance_type: str) -> Iterator[PutMetricAlarmInputTypeDef]:
    for load in loads(plan, instance_type):
        if load.scale is None:
            continue
        words = f"{load.metric}, percent, {load.limit:g} of each of {load.scale}" if load.scale > 1 else load.metric
        yield {
            **_alarm(endpoint, plan, load.kind, load.limit * load.scale, words),
            "Namespace": INSTANCES,
            "MetricName": load.metric,
            "Dimensions": dimensions(endpoint, None, VARIANT),
            "Statistic": "Maximum",  # over the instances: one that is full is enough
            "Period": ALARM_PERIOD,
        }


def _error_rate(endpoint: str, plan: MonitoringPlan) -> list[MetricDataQueryTypeDef]:
    def total(name: str, metric: str) -> MetricDataQueryTypeDef:
        which = {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": dimensions(endpoint, None, VARIANT)}
        stat = {"Metric": which, "Period": ALARM_PERIOD, "Stat": "Sum"}
        return {"Id": name, "MetricStat": stat, "ReturnData": False}  # type: ignore[typeddict-item]

    rate = f"IF(requests >= {plan.min_requests}, errors / requests, 0)"
    return [
        total("requests", "Invocations"),
        total("errors", "Invocation5XXErrors"),
        {"Id": "rate", "Expression": rate, "Label": "5xx answers ÷ requests", "ReturnData": True},
    ]


def _alarm(endpoint: str, plan: MonitoringPlan, kind: str, threshold: float, words: str) -> PutMetricAlarmInputTypeDef:
    return {
        "AlarmName": alarm_name(endpoint, kind),
        "AlarmDescription": f"Slimline, standing guard over {endpoint}: {words}",
        "ActionsEnabled": True,
        "AlarmActions": [plan.topic] if plan.topic else [],
        "OKActions": [plan.topic] if plan.topic else [],
        "EvaluationPeriods": plan.minutes,
        "DatapointsToAlarm": plan.breaching,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "missing",  # INSUFFICIENT_DATA: no data is no good news
    }
