"""An endpoint of echo servers, observed: nobody asks it anything, it does well, then it answers late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tasks.adapters.sagemaker_errors import EndpointMissing
from tasks.adapters.sagemaker_window import span
from tasks.monitoring_contracts import Observed
from tasks.monitoring_plan import MonitoringPlan, ObserveRules
from tasks.observe import observed
from tests.adapters.releasing import Desk, plan_of
from tests.local.stack import until

ENDPOINT, NOWHERE = "slimline-seen", "http://127.0.0.1:9"  # the original has no scorecard: MLflow is not asked
# An echo takes milliseconds, and now and then ten times that on a machine that does other things too.
RULES = ObserveRules(window_minutes=6, min_requests=40, latency_quantile=0.5, latency_ratio=10, act="restore")
RATE = 15.0


@contextmanager
def fault(desk: Desk, **what: Any) -> Iterator[None]:
    address = f"{desk.url}/_slimline/faults"
    added = requests.post(address, json=what, timeout=10).json()["id"]
    try:
        yield
    finally:
        requests.delete(f"{address}/{added}", timeout=10)


def look(desk: Desk) -> Observed:
    return observed(desk.cloud(), NOWHERE, ENDPOINT, RULES)


def test_windows_are_whole_and_meet() -> None:
    short = span(100_000.0, 3600)
    assert (short.period, short.middle - short.since, short.until - short.middle) == (60, 3600, 3600)
    assert short.until == 99_960  # the running minute is left out
    long = span(1_000_000.0, 86_400)
    assert long.period == 720 and long.until % 720 == 0 and (long.until - long.middle) % 720 == 0


def test_an_endpoint_that_is_not_there_is_said_to_be_missing(desk: Desk) -> None:
    with pytest.raises(EndpointMissing, match="slimline-seen"):
        look(desk)


@pytest.mark.timeout(240)
def test_no_data_then_healthy_then_degraded_by_a_latency_that_rises(desk: Desk) -> None:
    guarded = MonitoringPlan(minutes=2, breaching=1, max_p90_ms=300, max_p99_ms=0, max_cpu_percent=0)
    plan = plan_of(ENDPOINT, "ALL_AT_ONCE", monitoring=guarded)
    config = desk.serve(plan, "original")
    desk.cloud().monitoring.apply(plan)
    quiet = look(desk)
    assert (quiet.state, quiet.act) == ("no data", "report") and quiet.windows.current.requests == 0
    assert "original is not in the registry" in quiet.promise.note
    asked: list[int] = []

    def count(params: dict[str, Any], **more: Any) -> None:
        asked.append(len(params["MetricDataQueries"]))

    client = desk.cloud().connection.client("cloudwatch")
    client.meta.events.register("provide-client-params.cloudwatch.GetMetricData", count)

    with desk.load(ENDPOINT, RATE):
        well = until(lambda: look(desk), lambda seen: seen.state == "healthy", 60)
        assert well.windows.before.requests >= 40 and well.config == config
        assert {load.metric for load in well.windows.loads} == {
            "CPUUtilization",
            "MemoryUtilization",
            "DiskUtilization",
        }
        assert sum(point.requests for point in well.windows.points) > 80
        with fault(desk, kind="latency", endpoint=ENDPOINT, seconds=0.5):
            time.sleep(RULES.window_minutes * 60 / 60)
            late = until(lambda: look(desk), lambda seen: seen.state == "degraded", 30)
    assert len(asked) % 2 == 0 and 200 < asked[-2] + asked[-1] <= 260, "docs/monitoring.md states what it costs"
    assert "latency" in late.causes and late.act == "restore"
    assert late.alarms["p90"] == "ALARM" and late.alarms["errors"] != "ALARM"
    (latency,) = [found for found in late.findings if found.metric == "latency"]
    assert latency.candidate and latency.candidate > 400 and latency.baseline and latency.baseline < 100
