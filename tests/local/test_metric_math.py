"""Metric math: expressions over known series, what is refused, and GetMetricData through plain boto3."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.local.endpoint_service.math_functions import evaluate
from deployments.local.endpoint_service.metric_math import BadExpression, Frame, Value, parse
from tests.local.stack import Deck

A, B = {0.0: 1.0, 60.0: 4.0, 180.0: 9.0}, {0.0: 2.0, 60.0: 0.0, 120.0: 5.0}
TIMES = (0.0, 60.0, 120.0, 180.0)


def value(text: str) -> Value:
    known: dict[str, Value] = {"a": A, "b": B}
    frame = Frame(0.0, 240.0, 60, known.__getitem__, {"a": A, "b": B}, {"a": 60, "b": 60})
    return evaluate(parse(text), frame)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a + b * 2", {0.0: 5.0, 60.0: 4.0}),
        ("100 * (a / b)", {0.0: 50.0}),  # no point where it divides by zero
        ("-a ^ 2", {0.0: -1.0, 60.0: -16.0, 180.0: -81.0}),
        ("2 ^ 3 ^ 2 + a - a", {0.0: 512.0, 60.0: 512.0, 180.0: 512.0}),
        ("10 - 2 - a", {0.0: 7.0, 60.0: 4.0, 180.0: -1.0}),
        ("a > 2 AND a < 9", {0.0: 0.0, 60.0: 1.0, 180.0: 0.0}),
        ("a == 1 || a >= 9", {0.0: 1.0, 60.0: 0.0, 180.0: 1.0}),
        ("IF(a > 2, a, 0)", {0.0: 0.0, 60.0: 4.0, 180.0: 9.0}),
        ("IF(a > 2, b)", {60.0: 0.0}),
        ("SUM([a, b])", {0.0: 3.0, 60.0: 4.0, 120.0: 5.0, 180.0: 9.0}),
        ("SUM(METRICS())", {0.0: 3.0, 60.0: 4.0, 120.0: 5.0, 180.0: 9.0}),
        ("MAX(METRICS('b')) + 0", {0.0: 2.0, 60.0: 0.0, 120.0: 5.0}),
        ("a - AVG(a)", {0.0: 1 - 14 / 3, 60.0: 4 - 14 / 3, 180.0: 9 - 14 / 3}),
        ("TIME_SERIES(STDDEV(b))", dict.fromkeys(TIMES, pytest.approx(2.0548, abs=1e-4))),
        ("FILL(a, 0)", {0.0: 1.0, 60.0: 4.0, 120.0: 0.0, 180.0: 9.0}),
        ("FILL(a, REPEAT)", {0.0: 1.0, 60.0: 4.0, 120.0: 4.0, 180.0: 9.0}),
        ("FILL(a, LINEAR)", {0.0: 1.0, 60.0: 4.0, 120.0: 6.5, 180.0: 9.0}),
        ("DIFF(a)", {60.0: 3.0, 180.0: 5.0}),
        ("RATE(a)", {60.0: 0.05, 180.0: pytest.approx(5 / 120)}),
        ("RUNNING_SUM(a)", {0.0: 1.0, 60.0: 5.0, 180.0: 14.0}),
        ("CEIL(a / 2) + FLOOR(a / 2) + ABS(0 - a)", {0.0: 2.0, 60.0: 8.0, 180.0: 18.0}),
        ("a / PERIOD(a)", {0.0: 1 / 60, 60.0: 4 / 60, 180.0: 9 / 60}),
        ("SLICE([a, b], 1) * 1", B),
        ("[a, b] * 2", [{k: 2 * v for k, v in A.items()}, {k: 2 * v for k, v in B.items()}]),
        ("SUM(a)", 14.0),
    ],
)
def test_expressions(text: str, wanted: Any) -> None:
    found = value(text)
    assert found == (pytest.approx(wanted) if isinstance(wanted, dict) and "STDDEV" not in text else wanted)


@pytest.mark.parametrize(
    "text", ["", "a +", "a b", "(a", "FOO(a)", "FILL(a)", "[a] + [b]", "a $ 2", "SLICE([a], 3)", "(" * 100 + "a"]
)
def test_what_is_no_metric_math(text: str) -> None:
    with pytest.raises(BadExpression):
        value(text)


@pytest.fixture(scope="module")
def sent(deck: Deck) -> dict[str, Any]:
    """Three minutes of two metrics, and the span that holds them."""
    namespace, start = f"n-{uuid.uuid4().hex[:8]}", deck.now().replace(second=0) - timedelta(minutes=10)
    data = [
        {"MetricName": name, "Timestamp": start + timedelta(minutes=minute), "Value": float(value)}
        for name, values in (("errors", (1, 0, 3)), ("requests", (10, 20, 30)))
        for minute, value in enumerate(values)
    ]
    deck.cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)
    return {"namespace": namespace, "span": {"StartTime": start, "EndTime": start + timedelta(minutes=3)}}


def metric(sent: dict[str, Any], name: str, shown: bool = True) -> dict[str, Any]:
    found = {"Namespace": sent["namespace"], "MetricName": name}
    return {"Id": name, "MetricStat": {"Metric": found, "Period": 60, "Stat": "Sum"}, "ReturnData": shown}


def test_boto3_reads_expressions_on_expressions(deck: Deck, sent: dict[str, Any]) -> None:
    queries = [
        {"Id": "worst", "Expression": "TIME_SERIES(MAX(share))"},
        {"Id": "share", "Expression": "errors / requests", "Label": "error share"},
        metric(sent, "errors", shown=False),
        metric(sent, "requests", shown=False),
    ]
    answer = deck.cloudwatch.get_metric_data(
        MetricDataQueries=queries, ScanBy="TimestampAscending", LabelOptions={"Timezone": "+0100"}, **sent["span"]
    )
    worst, share = answer["MetricDataResults"]
    assert share["Values"] == [0.1, 0.0, 0.1] and share["Label"] == "error share" and share["StatusCode"] == "Complete"
    assert worst["Values"] == [0.1] * 3 and worst["Timestamps"] == share["Timestamps"]


def test_pages_of_data_points(deck: Deck, sent: dict[str, Any]) -> None:
    queries = [metric(sent, "errors"), metric(sent, "requests")]
    pages = deck.cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, MaxDatapoints=2, ScanBy="TimestampAscending", **sent["span"]
    )
    seen = [[(each["Id"], each["Values"], each["StatusCode"]) for each in page["MetricDataResults"]] for page in pages]
    assert seen == [
        [("errors", [1.0, 0.0], "PartialData")],
        [("errors", [3.0], "Complete"), ("requests", [10.0], "PartialData")],
        [("requests", [20.0, 30.0], "Complete")],
    ]


@pytest.mark.parametrize(
    ("expression", "code", "said"),
    [
        ("FROBNICATE(errors)", "ValidationError", "'e': Unknown function FROBNICATE"),
        ("errors / nothing", "ValidationError", "'e': Unknown metric nothing"),
        ("e + 1", "ValidationError", "depends on itself"),
        ("SUM(errors)", "ValidationError", "a scalar, not a time series"),
        ("errors +", "ValidationError", "Error in expression 'e'"),
        ("SEARCH('{AWS/SageMaker}', 'Sum', 300)", "NotImplementedException", "SEARCH"),
        ("SELECT AVG(x) FROM y", "NotImplementedException", "Metrics Insights"),
    ],
)
def test_refusals(deck: Deck, sent: dict[str, Any], expression: str, code: str, said: str) -> None:
    queries = [metric(sent, "errors"), {"Id": "e", "Expression": expression}]
    with pytest.raises(ClientError, match=said) as error:
        deck.cloudwatch.get_metric_data(MetricDataQueries=queries, **sent["span"])
    assert error.value.response["Error"]["Code"] == code
