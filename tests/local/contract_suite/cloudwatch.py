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


def composite(world: World, **change: Any) -> dict[str, Any]:
    return {"AlarmName": world.name("composite"), "AlarmRule": f'ALARM("{world.alarm}")'} | change


def math(world: World, **change: Any) -> dict[str, Any]:
    """An alarm on an expression."""
    errors = query(world)["MetricDataQueries"][0]["MetricStat"] | {"Stat": "Sum"}
    queries = [
        {"Id": "m1", "MetricStat": errors, "ReturnData": False},
        {"Id": "e1", "Expression": "FILL(m1, 0) / 2", "ReturnData": True},
    ]
    kept = ("EvaluationPeriods", "Threshold", "ComparisonOperator", "AlarmName")
    return {name: value for name, value in alarm(world).items() if name in kept} | {"Metrics": queries} | change


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
        ("InvalidNextToken", 400, True, lambda w: {"NextToken": "?"}),
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
    *cloudwatch(
        "PutCompositeAlarm",
        composite,
        ("ValidationError", 400, True, lambda w: composite(w, AlarmRule='ALARM("absent")')),
        ("ValidationError", 400, False, lambda w: composite(w, AlarmRule="")),
    ),
    *cloudwatch("PutMetricAlarm", math),
    *cloudwatch("DescribeAlarms", lambda w: {"AlarmTypes": ["CompositeAlarm", "MetricAlarm"], "MaxRecords": 50}),
    *cloudwatch(
        "DescribeAlarmsForMetric",
        lambda w: {"Namespace": "AWS/SageMaker", "MetricName": "Invocation5XXErrors", "Dimensions": dimensions(w)},
        ("ValidationError", 400, False, lambda w: {"Namespace": "AWS/SageMaker", "MetricName": ""}),
    ),
    *cloudwatch(
        "DescribeAlarmHistory",
        lambda w: {"AlarmName": w.alarm, "ScanBy": "TimestampAscending"},
        ("ValidationError", 400, False, lambda w: {"HistoryItemType": "Gossip"}),
    ),
    *cloudwatch(
        "DisableAlarmActions",
        lambda w: {"AlarmNames": [w.alarm]},
        ("ValidationError", 400, False, lambda w: {"AlarmNames": [""]}),
    ),
    *cloudwatch(
        "EnableAlarmActions",
        lambda w: {"AlarmNames": [w.alarm]},
        ("ValidationError", 400, False, lambda w: {"AlarmNames": [""]}),
    ),
    # dashboards
    *cloudwatch(
        "PutDashboard",
        lambda w: {"DashboardName": "contract", "DashboardBody": '{"widgets": []}'},
        ("InvalidParameterInput", 400, True, lambda w: {"DashboardName": "contract", "DashboardBody": "no JSON"}),
    ),
    *cloudwatch(
        "GetDashboard",
        lambda w: {"DashboardName": "contract"},
        ("ResourceNotFound", 404, True, lambda w: {"DashboardName": "absent"}),
    ),
    *cloudwatch(
        "ListDashboards",
        lambda w: {"DashboardNamePrefix": "con"},
        ("InvalidParameterValue", 400, True, lambda w: {"NextToken": "?"}),
    ),
    *cloudwatch(
        "DeleteDashboards",
        lambda w: {"DashboardNames": ["contract"]},
        ("ResourceNotFound", 404, True, lambda w: {"DashboardNames": ["absent"]}),
    ),
]
