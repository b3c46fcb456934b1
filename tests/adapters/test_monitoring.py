"""What stands guard over an endpoint: the requests as AWS wants them, and their life beside the endpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from tasks.adapters.dashboards import dashboard_body
from tasks.adapters.instance_shapes import cores, gpus
from tasks.adapters.sagemaker_alarms import left_out, standing_alarms
from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.sagemaker_monitoring import check_monitoring
from tasks.adapters.sagemaker_requests import blueprint
from tasks.errors import RefusedRequest
from tasks.monitoring_plan import MonitoringPlan
from tests.adapters.packages import AWS_PLAN, ROLE, on_aws, package
from tests.adapters.releasing import Desk, plan_of

TOPIC = "arn:aws:sns:eu-central-1:111111111111:pager"
ARN = "arn:aws:sagemaker:eu-central-1:111111111111:endpoint/slimline-demo"
DIMENSIONS = [{"Name": "EndpointName", "Value": "e"}, {"Name": "VariantName", "Value": "AllTraffic"}]


def by_kind(plan: MonitoringPlan, instance_type: str) -> dict[str, dict[str, Any]]:
    made = {
        str(each["AlarmName"]).removeprefix("e-standing-"): dict(each)
        for each in standing_alarms("e", plan, instance_type)
    }
    for request in made.values():
        check_request("cloudwatch", "PutMetricAlarm", request)
    return made


def test_the_error_alarm_is_a_rate_by_metric_math_and_a_quiet_minute_has_none() -> None:
    alarm = by_kind(MonitoringPlan(topic=TOPIC, min_requests=25), "ml.m5.xlarge")["errors"]
    total = [query["MetricStat"] for query in alarm["Metrics"][:2]]
    assert [(each["Metric"]["Namespace"], each["Metric"]["MetricName"], each["Stat"]) for each in total] == [
        ("AWS/SageMaker", "Invocations", "Sum"),
        ("AWS/SageMaker", "Invocation5XXErrors", "Sum"),
    ]
    assert all(each["Metric"]["Dimensions"] == DIMENSIONS for each in total)
    assert alarm["Metrics"][2]["Expression"] == "IF(requests >= 25, errors / requests, 0)"
    assert [query["ReturnData"] for query in alarm["Metrics"]] == [False, False, True]
    assert (alarm["Threshold"], alarm["DatapointsToAlarm"], alarm["EvaluationPeriods"]) == (0.02, 3, 5)
    assert alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC]
    assert alarm["TreatMissingData"] == "missing"


def test_latency_is_in_microseconds_and_load_in_percent_of_every_core_and_gpu() -> None:
    made = by_kind(MonitoringPlan(), "ml.g5.12xlarge")
    assert set(made) == {"errors", "p90", "p99", "cpu", "gpu", "gpu-memory", "memory", "disk"}
    for kind, threshold in (("p90", 10_000_000), ("p99", 30_000_000)):
        latency = made[kind]
        assert (latency["Namespace"], latency["MetricName"]) == ("AWS/SageMaker", "ModelLatency")
        assert (latency["ExtendedStatistic"], latency["Threshold"]) == (kind, threshold)
        assert "Statistic" not in latency and latency["EvaluateLowSampleCountPercentile"] == "evaluate"
    seen = {
        kind: (made[kind]["Namespace"], made[kind]["MetricName"], made[kind]["Threshold"]) for kind in list(made)[3:]
    }
    where = "/aws/sagemaker/Endpoints"
    assert seen == {
        "cpu": (where, "CPUUtilization", 90 * 48),
        "gpu": (where, "GPUUtilization", 95 * 4),
        "gpu-memory": (where, "GPUMemoryUtilization", 95 * 4),
        "memory": (where, "MemoryUtilization", 90),
        "disk": (where, "DiskUtilization", 85),
    }
    assert all(made[kind]["Dimensions"] == DIMENSIONS for kind in seen)


@pytest.mark.parametrize(
    ("instance", "cpus", "cards"),
    [
        ("ml.t2.medium", 2, 0), ("ml.c5.large", 2, 0), ("ml.m5.xlarge", 4, 0), ("ml.c4.8xlarge", 36, 0),
        ("ml.m5.24xlarge", 96, 0), ("ml.inf2.48xlarge", 192, 0), ("ml.trn1.32xlarge", 128, 0),
        ("ml.g5.2xlarge", 8, 1), ("ml.g6e.48xlarge", 192, 8), ("ml.p4d.24xlarge", 96, 8), ("ml.p3.8xlarge", 32, 4),
        ("ml.p9.48xlarge", 192, None), ("ml.m5.metal", None, 0),
    ],
)  # fmt: skip
def test_cores_and_gpus(instance: str, cpus: int | None, cards: int | None) -> None:
    assert (cores(instance), gpus(instance)) == (cpus, cards)


def test_what_cannot_be_watched_is_said_and_what_is_not_wanted_is_left_out() -> None:
    assert [note.split(":")[0] for note in left_out(MonitoringPlan(), "ml.p9.48xlarge")] == [
        "no alarm on GPUUtilization", "no alarm on GPUMemoryUtilization",
    ]  # fmt: skip
    assert left_out(MonitoringPlan(), "ml.m5.xlarge") == []
    few = MonitoringPlan(max_p99_ms=0, max_cpu_percent=0, max_memory_percent=0, max_disk_percent=0)
    assert set(by_kind(few, "ml.m5.xlarge")) == {"errors", "p90"}
    assert by_kind(MonitoringPlan(alarms=False), "ml.m5.xlarge") == {}


def test_the_dashboard_has_every_metric_with_its_limit_and_the_alarms_by_arn() -> None:
    plan = MonitoringPlan(max_p99_ms=0)
    text = dashboard_body("slimline-demo", ARN, plan, "ml.g5.xlarge")
    check_request("cloudwatch", "PutDashboard", {"DashboardName": "slimline-demo-eu", "DashboardBody": text})
    assert text == dashboard_body("slimline-demo", ARN, plan, "ml.g5.xlarge")
    widgets = json.loads(text)["widgets"]
    boxes = [(w["x"], w["y"], w["x"] + w["width"], w["y"] + w["height"]) for w in widgets]
    assert all(x2 <= 24 for _, _, x2, _ in boxes)
    apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a in boxes for b in boxes if a != b]
    assert all(apart) and len(set(boxes)) == len(boxes)
    (alarms,) = [w["properties"]["alarms"] for w in widgets if w["type"] == "alarm"]
    assert alarms[0] == "arn:aws:cloudwatch:eu-central-1:111111111111:alarm:slimline-demo-standing-errors"
    assert len(alarms) == 7
    graphs = [w["properties"] for w in widgets if w["type"] == "metric"]
    assert {graph["region"] for graph in graphs} == {"eu-central-1"}
    metrics = {row[1] for graph in graphs for row in graph["metrics"] if isinstance(row[0], str)}
    assert metrics == {
        "Invocations", "Invocation4XXErrors", "Invocation5XXErrors", "ModelLatency", "CPUUtilization", "GPUUtilization",
        "GPUMemoryUtilization", "MemoryUtilization", "DiskUtilization",
    }  # fmt: skip
    lines = {line["value"] for graph in graphs for line in graph.get("annotations", {}).get("horizontal", [])}
    assert lines == {2.0, 10_000, 360, 95, 90, 85}


def test_what_cannot_work_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    wrong = AWS_PLAN.model_copy(update={"monitoring": MonitoringPlan(minutes=3, breaching=4)})
    with pytest.raises(RefusedRequest, match="4 of 3 minutes"):
        on_aws(tmp_path).check_plan(wrong)
    told = AWS_PLAN.model_copy(update={"monitoring": MonitoringPlan(topic=TOPIC)})
    on_aws(tmp_path).check_plan(told)
    with pytest.raises(RefusedRequest, match="no topic in a rehearsal"):
        check_monitoring(told, rehearsal=True)
    with pytest.raises(ValueError, match="pattern"):
        MonitoringPlan(topic="arn:aws:sqs:eu-central-1:111111111111:queue")


def test_a_sampled_endpoint_keeps_requests_and_one_that_is_not_has_the_name_it_had() -> None:
    plain = blueprint(package("7"), AWS_PLAN, ROLE, {}, bucket="slimline-models")
    sampled_plan = AWS_PLAN.model_copy(update={"monitoring": MonitoringPlan(capture_percent=5)})
    sampled = blueprint(package("7"), sampled_plan, ROLE, {}, bucket="slimline-models")
    assert "DataCaptureConfig" not in plain.config and sampled.name != plain.name
    assert sampled.config["DataCaptureConfig"] == {
        "EnableCapture": True, "InitialSamplingPercentage": 5, "DestinationS3Uri": "s3://slimline-models/captures",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }  # fmt: skip
    check_request("sagemaker", "CreateEndpointConfig", sampled.config)
    watched = AWS_PLAN.model_copy(update={"monitoring": MonitoringPlan(max_p90_ms=1)})
    assert blueprint(package("7"), watched, ROLE, {}).name == plain.name, "a limit is no part of what is served"


def test_guards_are_kept_by_later_releases_changed_in_place_and_go_with_the_endpoint(desk: Desk) -> None:
    plan = plan_of("slimline-guarded", "ALL_AT_ONCE")
    desk.serve(plan)
    cloud, plain = desk.cloud(), boto3.client("cloudwatch", endpoint_url=desk.url, region_name="us-east-1")

    def there() -> dict[str, float]:
        found = plain.describe_alarms(AlarmNamePrefix="slimline-guarded-standing-")["MetricAlarms"]
        return {alarm["AlarmName"].rpartition("standing-")[2]: alarm["Threshold"] for alarm in found}

    def dashboards() -> list[str]:
        listed = plain.list_dashboards(DashboardNamePrefix="slimline-guarded")["DashboardEntries"]
        return [entry["DashboardName"] for entry in listed]

    guard = cloud.monitoring.apply(plan)
    assert len(guard.alarms) == 6 and guard.notes == ()
    assert dashboards() == [guard.dashboard] == ["slimline-guarded-standing-us-east-1"]
    body = json.loads(plain.get_dashboard(DashboardName=guard.dashboard)["DashboardBody"])
    assert "arn:aws:cloudwatch:us-east-1:123456789012:alarm:slimline-guarded-standing-p90" in str(body)
    opened = {(entry.kind, entry.name) for entry in cloud._ledger.open_entries()}
    assert {("standing-alarm", name) for name in guard.alarms} | {("dashboard", guard.dashboard)} <= opened

    cloud.sweep()
    cloud.sweep("slimline-guarded")
    assert set(there()) == {"errors", "p90", "p99", "cpu", "memory", "disk"} and dashboards()

    fewer = plan.model_copy(update={"monitoring": MonitoringPlan(max_p90_ms=500, max_p99_ms=0, dashboard=False)})
    cloud.monitoring.apply(fewer)
    assert set(there()) == {"errors", "p90", "cpu", "memory", "disk"} and there()["p90"] == 500_000
    assert dashboards() == [] and cloud.monitoring.states("slimline-guarded").keys() == there().keys()

    cloud.monitoring.apply(plan)
    cloud.delete_endpoint("slimline-guarded", poll_seconds=0.1)
    assert there() == {} and dashboards() == []
    left = {entry.kind for entry in cloud._ledger.open_entries() if "guarded-standing" in entry.name}
    assert left == set()


def test_guards_of_an_endpoint_that_somebody_else_deleted_are_swept(desk: Desk) -> None:
    plan = plan_of("slimline-lost", "ALL_AT_ONCE")
    desk.serve(plan)
    cloud = desk.cloud()
    guard = cloud.monitoring.apply(plan)
    sagemaker = boto3.client("sagemaker", endpoint_url=desk.url, region_name="us-east-1")
    sagemaker.delete_endpoint(EndpointName="slimline-lost")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="slimline-lost", WaiterConfig={"Delay": 1})
    swept = cloud.sweep("slimline-lost")
    assert {f"standing-alarm {name}" for name in guard.alarms} <= set(swept)
    assert f"dashboard {guard.dashboard}" in swept
