"""Alarms on metric math and on other alarms, their history, and dashboards, through plain boto3."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.local.endpoint_service.composite import read
from tests.local.stack import Deck, canary, until


def state(deck: Deck, name: str, kind: str = "Metric") -> str:
    found = deck.cloudwatch.describe_alarms(AlarmNames=[name], AlarmTypes=[f"{kind}Alarm"])[f"{kind}Alarms"]
    value: str = found[0]["StateValue"]
    return value


def share_alarm(deck: Deck, dims: dict[str, str], threshold: float = 0.05) -> str:
    """5xx of all requests, as metric math."""
    shown = [{"Name": key, "Value": value} for key, value in dims.items()]

    def query(name: str, metric: str) -> dict[str, Any]:
        found = {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": shown}
        return {"Id": name, "MetricStat": {"Metric": found, "Period": 60, "Stat": "Sum"}, "ReturnData": False}

    name = f"a-{uuid.uuid4().hex[:8]}"
    deck.cloudwatch.put_metric_alarm(
        AlarmName=name,
        Metrics=[
            query("bad", "Invocation5XXErrors"),
            query("all", "Invocations"),
            {"Id": "share", "Expression": "IF(all > 0, bad / all, 0)", "ReturnData": True},
        ],
        EvaluationPeriods=1,
        Threshold=threshold,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    return name


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("ALARM(a)", True),
        ('ALARM("a") AND OK(b)', True),
        ("ALARM(b) OR NOT OK(b) OR INSUFFICIENT_DATA(c)", True),
        ("NOT (ALARM(a) OR FALSE)", False),
        ("FALSE OR TRUE AND FALSE", False),  # AND binds tighter
        ("ALARM(arn:aws:cloudwatch:us-east-1:123456789012:alarm:a)", True),
    ],
)
def test_rules(rule: str, wanted: bool) -> None:
    assert read(rule)[0]({"a": "ALARM", "b": "OK", "c": "INSUFFICIENT_DATA"}.__getitem__) is wanted


@pytest.mark.parametrize("rule", ["", "ALARM(", "ALARM(a) OK(b)", "MAYBE(a)", "(ALARM(a)", "ALARM(a) AND"])
def test_no_rules(rule: str) -> None:
    with pytest.raises(Exception, match="Invalid alarm rule"):
        read(rule)


def test_a_composite_alarm_on_metric_math_sends_a_deployment_back(deck: Deck) -> None:
    old = deck.config(count=2)
    endpoint = deck.endpoint(old)
    new = deck.config(count=2, ECHO_ERROR_SHARE="0.5")
    dims = {"EndpointName": endpoint, "VariantName": "main", "EndpointConfigName": new}
    share = share_alarm(deck, dims)
    both = f"c-{uuid.uuid4().hex[:8]}"
    deck.cloudwatch.put_composite_alarm(AlarmName=both, AlarmRule=f"ALARM({share}) AND NOT FALSE")
    deployment = canary(50, wait=600) | {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": both}]}}
    deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=new, DeploymentConfig=deployment)

    def ask() -> str:
        try:
            deck.ask(endpoint)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ModelError"
        found: str = deck.describe(endpoint)["EndpointStatus"]
        return found

    until(ask, lambda status: status == "InService")
    assert deck.describe(endpoint)["EndpointConfigName"] == old
    assert any(f"alarm {both} is in ALARM" in event["what"] for event in deck.service.fleets(endpoint)["history"])
    items = deck.cloudwatch.describe_alarm_history(
        AlarmName=both, AlarmTypes=["CompositeAlarm"], HistoryItemType="StateUpdate", ScanBy="TimestampAscending"
    )["AlarmHistoryItems"]
    assert any(item["HistorySummary"].endswith("to ALARM") for item in items)
    deck.cloudwatch.delete_alarms(AlarmNames=[both, share])


def test_history_pages_and_outlives_the_alarm(deck: Deck) -> None:
    name = deck.alarm("nobody", "none")
    for value in ("ALARM", "OK", "ALARM"):
        deck.cloudwatch.set_alarm_state(AlarmName=name, StateValue=value, StateReason=f"said {value}")
    deck.cloudwatch.disable_alarm_actions(AlarmNames=[name])
    assert not deck.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["ActionsEnabled"]
    deck.cloudwatch.enable_alarm_actions(AlarmNames=[name])
    assert deck.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["ActionsEnabled"]
    deck.cloudwatch.delete_alarms(AlarmNames=[name])
    pages = deck.cloudwatch.get_paginator("describe_alarm_history").paginate(
        AlarmName=name, ScanBy="TimestampAscending", PaginationConfig={"PageSize": 3}
    )
    found = [page["AlarmHistoryItems"] for page in pages]
    assert [len(items) for items in found][:-1] == [3] * (len(found) - 1)
    items = [item for page in found for item in page]
    kinds = [(item["HistoryItemType"], json.loads(item["HistoryData"]).get("type")) for item in items]
    assert kinds[0] == ("ConfigurationUpdate", "Create") and kinds[-1] == ("ConfigurationUpdate", "Delete")
    said = [
        json.loads(item["HistoryData"])["newState"]["stateReason"]
        for item in items
        if "State" in item["HistoryItemType"]
    ]
    assert [text for text in said if text.startswith("said")] == ["said ALARM", "said OK", "said ALARM"]


def test_alarms_for_a_metric_leave_out_math(deck: Deck) -> None:
    dims = {"EndpointName": "lonely", "VariantName": "main", "EndpointConfigName": "c"}
    plain, math = deck.alarm("lonely", "c"), share_alarm(deck, dims)
    found = deck.cloudwatch.describe_alarms_for_metric(
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": key, "Value": value} for key, value in dims.items()],
    )["MetricAlarms"]
    assert [alarm["AlarmName"] for alarm in found] == [plain]
    shown = deck.cloudwatch.describe_alarms(AlarmNames=[math])["MetricAlarms"][0]
    assert [query["Id"] for query in shown["Metrics"]] == ["bad", "all", "share"] and "MetricName" not in shown
    deck.cloudwatch.delete_alarms(AlarmNames=[plain, math])


def test_a_percentile_of_few_samples_can_be_ignored(deck: Deck) -> None:
    namespace = f"n-{uuid.uuid4().hex[:8]}"
    names = {}
    for low in ("evaluate", "ignore"):
        names[low] = f"a-{uuid.uuid4().hex[:8]}"
        deck.cloudwatch.put_metric_alarm(
            AlarmName=names[low],
            Namespace=namespace,
            MetricName="m",
            ExtendedStatistic="p99",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanThreshold",
            EvaluateLowSampleCountPercentile=low,
        )
    now = deck.now()
    data = [{"MetricName": "m", "Timestamp": now + timedelta(minutes=m), "Value": 5.0} for m in range(10)]
    deck.cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)
    until(lambda: state(deck, names["evaluate"]), lambda seen: seen == "ALARM")
    assert state(deck, names["ignore"]) == "INSUFFICIENT_DATA"  # one sample is not the thousand that p99 needs
    deck.cloudwatch.delete_alarms(AlarmNames=list(names.values()))


def test_refusals(deck: Deck) -> None:
    put = {"EvaluationPeriods": 1, "Threshold": 1, "ComparisonOperator": "GreaterThanThreshold"}
    query = {"Id": "e", "Expression": "TIME_SERIES(1)"}
    for given, said in (
        ({"Metrics": [query], "MetricName": "m"}, "cannot be specified together"),
        ({"Metrics": [query, query | {"Id": "f"}]}, "Exactly one element"),
        ({"Metrics": [query | {"Expression": "[TIME_SERIES(1), TIME_SERIES(2)]"}]}, "a single time series"),
        ({"Metrics": [query | {"Expression": "NOPE(1)"}]}, "Unknown function NOPE"),
    ):
        with pytest.raises(ClientError, match=said):
            deck.cloudwatch.put_metric_alarm(AlarmName="refused", **put, **given)
    with pytest.raises(ClientError, match="do not exist"):
        deck.cloudwatch.put_composite_alarm(AlarmName="refused", AlarmRule="ALARM(nothing-like-it)")
    with pytest.raises(ClientError, match="leads back to itself"):
        deck.cloudwatch.put_composite_alarm(AlarmName="refused", AlarmRule="ALARM(refused)")
    with pytest.raises(ClientError, match=r"PutCompositeAlarm\.ActionsSuppressor"):
        deck.cloudwatch.put_composite_alarm(
            AlarmName="refused",
            AlarmRule="TRUE",
            ActionsSuppressor="other",
            ActionsSuppressorWaitPeriod=1,
            ActionsSuppressorExtensionPeriod=1,
        )


def test_dashboards_are_kept_and_checked(deck: Deck) -> None:
    body = json.dumps({"widgets": [{"type": "metric", "properties": {}}]})
    deck.cloudwatch.put_dashboard(DashboardName="releases", DashboardBody=body)
    assert deck.cloudwatch.get_dashboard(DashboardName="releases")["DashboardBody"] == body
    listed = deck.cloudwatch.list_dashboards(DashboardNamePrefix="rel")["DashboardEntries"]
    assert [(each["DashboardName"], each["Size"]) for each in listed] == [("releases", len(body))]
    for wrong in ("not json", "[]", '{"widgets": [{}]}'):
        with pytest.raises(ClientError, match="dashboard body is invalid") as error:
            deck.cloudwatch.put_dashboard(DashboardName="wrong", DashboardBody=wrong)
        assert error.value.response["Error"]["Code"] == "InvalidParameterInput"
    with pytest.raises(ClientError, match="wrong does not exist"):
        deck.cloudwatch.delete_dashboards(DashboardNames=["releases", "wrong"])
    deck.cloudwatch.delete_dashboards(DashboardNames=["releases"])
    assert not deck.cloudwatch.list_dashboards()["DashboardEntries"]
