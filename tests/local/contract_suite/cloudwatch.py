"""CloudWatch."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from tests.local.contract_suite.world import World, rows

cloudwatch = partial(rows, "cloudwatch")


def span(world: World) -> dict[str, Any]:
    now = world.deck.now()
    return {"StartTime": now - timedelta(hours=3), "EndTime": now + timedelta(minutes=1)}


def query(world: World, **change: Any) -> dict[str, Any]:
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "ModelLatency", "Dimensions": dimensions(world)}
    stat = {"Metric": metric, "Period": 60, "Stat": "p90"}
    return {"MetricDataQueries": [{"Id": "m1", "MetricStat": stat}], **span(world)} | change


def dimensions(world: World) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": world.endpoint}, {"Name": "VariantName", "Value": "main"}]


def alarm(world: World, **change: Any) -> dict[str, Any]:
    return {
        "AlarmName": world.name("alarm"),
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": dimensions(world),
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 1,
        "Threshold": 0.05,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    } | change


ROWS = [
    # metrics
    *cloudwatch(
        "PutMetricData",
        lambda w: {"Namespace": "own", "MetricData": [{"MetricName": "m", "Values": [1.0], "Unit": "Seconds"}]},
        ("InvalidParameterValue", 400, True, lambda w: {"Namespace": "AWS/own", "MetricData": [{"MetricName": "m"}]}),
        ("ValidationError", 400, False, lambda w: {"Namespace": "own", "MetricData": [{"Value": 1.0}]}),
    ),
    *cloudwatch(
        "GetMetricStatistics",
        lambda w: {"Namespace": "own", "MetricName": "m", "Period": 60, "Statistics": ["Sum"], **span(w)},
        ("MissingParameter", 400, True, lambda w: {"Namespace": "own", "MetricName": "m", "Period": 60, **span(w)}),
    ),
    *cloudwatch(
        "GetMetricData",
        query,
        ("InvalidParameterValue", 400, True, lambda w: query(w, EndTime=w.deck.now() - timedelta(days=1))),
        ("ValidationError", 400, False, lambda w: query(w, ScanBy="Random")),
    ),
    *cloudwatch(
        "ListMetrics",
        lambda w: {"Namespace": "AWS/SageMaker", "Dimensions": dimensions(w)},
        ("ValidationError", 400, False, lambda w: {"Namespace": ""}),
    ),
    # alarms
    *cloudwatch(
        "PutMetricAlarm",
        alarm,
        ("InvalidParameterCombination", 400, True, lambda w: alarm(w, DatapointsToAlarm=3)),
        ("ValidationError", 400, False, lambda w: alarm(w, ComparisonOperator="Near")),
    ),
    *cloudwatch(
        "DescribeAlarms",
        lambda w: {"AlarmNames": [w.alarm]},
        ("ValidationError", 400, False, lambda w: {"StateValue": "FINE"}),
    ),
    *cloudwatch(
        "SetAlarmState",
        lambda w: {"AlarmName": w.alarm, "StateValue": "OK", "StateReason": "contract"},
        ("ResourceNotFound", 404, True, lambda w: {"AlarmName": "absent", "StateValue": "OK", "StateReason": "no"}),
    ),
    *cloudwatch(
        "DeleteAlarms",
        lambda w: {"AlarmNames": [w.deck.alarm(w.endpoint, w.config)]},
        ("ResourceNotFound", 404, True, lambda w: {"AlarmNames": ["absent"]}),
    ),
]
