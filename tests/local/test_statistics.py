"""Extended statistics: the user guide's examples, and the service's answers to plain boto3."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployments.local.endpoint_service.extended import BadStatistic, parse
from deployments.local.endpoint_service.metrics import EXACT_VALUES, Bucket, Metrics
from tests.local.stack import Deck

HUNDRED = [(float(value), 1.0) for value in range(1, 101)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p50", 50.5),
        ("tm90", 45.5),  # the mean of 1 to 90
        ("TM(2%:98%)", 50.5),
        ("TM(20:30)", 25.5),  # 20 is out, 30 is in
        ("IQM", 50.5),
        ("tc90", 90.0),
        ("TC(20:30)", 10.0),
        ("ts90", 4095.0),
        ("TS(80%:)", sum(range(81, 101))),
        ("PR(:30)", 30.0),
        ("PR(30:)", 70.0),
        ("PR(20:30)", 10.0),
        ("PR(0.5:0.75)", 0.0),
        ("WM(10:90)", (10 * 10 + sum(range(11, 90)) + 90 * 11) / 100),
        ("wm98", (sum(range(1, 99)) + 2 * 98.02) / 100),
        ("TM(200:300)", None),
    ],
)
def test_a_hundred_values(name: str, value: float | None) -> None:
    found = parse(name).of(HUNDRED)
    assert found == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    "name",
    [
        "p101",
        "p-1",
        "tm",
        "TM(2%:98)",
        "TM(98%:2%)",
        "TM(:)",
        "TM(0%:101%)",
        "PR(1%:2%)",
        "IQM50",
        "Mean",
        "PR(1:2",
        "",
    ],
)
def test_what_cloudwatch_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(BadStatistic):
        parse(name)


def test_a_cut_through_equal_values_counts_in_part() -> None:
    same = [(5.0, 10.0)]
    assert parse("TC(:25%)").of(same) == pytest.approx(2.5)
    assert parse("tm25").of(same) == 5.0


def test_rank_is_exact_while_values_are_few_and_within_half_a_percent_of_the_limit_after() -> None:
    dice = random.Random(3)
    metrics, sent = Metrics(), [round(dice.lognormvariate(10, 0.5)) for _ in range(9_000)]
    few = sent[: 90 * EXACT_VALUES // 2]
    series = metrics.series(("n", "few", ()), resolution=10)
    for number, value in enumerate(few):  # 64 in a bucket of ten seconds: none is rounded, and reading rounds none
        series.bucket(10.0 * (number // 64)).add(value)
    whole = metrics.window(("n", "few", ()), 0, 1_000)
    for limit in (few[0], 15_000, 30_000):
        assert whole.statistic(f"PR(:{limit})") == pytest.approx(100 * sum(v <= limit for v in few) / len(few))
    many = Bucket()
    for value in sent:
        many.add(value)
    for limit in (15_000, 22_000, 30_000):
        rank = many.statistic(f"PR(:{limit})")
        assert rank is not None
        low, high = (100 * sum(v <= limit * factor for v in sent) / len(sent) for factor in (0.995, 1.005))
        assert low <= rank <= high
        assert rank * many.count / 100 == pytest.approx(round(rank * many.count / 100))  # a whole number of samples


def _sent(deck: Deck, *data: dict[str, Any]) -> str:
    name = f"n-{uuid.uuid4().hex[:8]}"
    deck.cloudwatch.put_metric_data(Namespace=name, MetricData=[{"MetricName": "m", **each} for each in data])
    return name


def _extended(deck: Deck, namespace: str, *names: str) -> dict[str, float]:
    now = deck.now()
    found = deck.cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName="m",
        StartTime=now - timedelta(days=1),
        EndTime=now + timedelta(hours=1),
        Period=86_400 * 2,
        ExtendedStatistics=list(names),
    )["Datapoints"]
    assert len(found) == 1
    answer: dict[str, float] = found[0].get("ExtendedStatistics", {})
    return answer


def test_boto3_reads_extended_statistics_by_both_operations(deck: Deck) -> None:
    namespace = _sent(deck, {"Values": [float(v) for v in range(1, 101)]})
    found = _extended(deck, namespace, "p90", "tm90", "PR(:30)", "IQM", "TC(20:30)", "ts90", "WM(10:90)")
    assert found["PR(:30)"] == 30 and found["TC(20:30)"] == 10 and found["tm90"] == pytest.approx(45.5)
    assert len(found) == 7
    metric = {"Namespace": namespace, "MetricName": "m"}
    queries = [
        {"Id": f"q{n}", "MetricStat": {"Metric": metric, "Period": 86_400, "Stat": stat}}
        for n, stat in enumerate(("PR(:30)", "IQM", "SampleCount"))
    ]
    now = deck.now()
    answer = deck.cloudwatch.get_metric_data(
        MetricDataQueries=queries, StartTime=now - timedelta(hours=1), EndTime=now + timedelta(hours=1)
    )
    values = [sum(result["Values"]) for result in answer["MetricDataResults"]]
    assert values == [30, pytest.approx(50.5), 100]
    queries[1]["MetricStat"]["Stat"] = "p101"
    with pytest.raises(ClientError, match=r"p101 for parameter MetricDataQueries.member.2.MetricStat.Stat") as error:
        deck.cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=now - timedelta(hours=1), EndTime=now)
    assert error.value.response["Error"]["Code"] == "ValidationError"


def test_none_is_known_of_statistic_sets_or_negative_values(deck: Deck) -> None:
    sets = {"SampleCount": 10, "Sum": 50, "Minimum": 1, "Maximum": 9}
    assert _extended(deck, _sent(deck, {"StatisticValues": sets}), "p50", "PR(:3)") == {}
    assert _extended(deck, _sent(deck, {"Values": [-1.0, 2.0]}), "p50") == {}
    same = sets | {"Minimum": 5, "Maximum": 5}  # all ten must be five
    assert _extended(deck, _sent(deck, {"StatisticValues": same}), "p50") == {"p50": 5.0}
