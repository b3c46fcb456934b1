"""The service goes away and comes back: what AWS would still know is still there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from tests.local.stack import ROOT, Deck, Service, canary, rolling, until, variant
from tests.local.test_rollouts import update
from tests.local.test_transform import Jobs, processes

Start = Callable[[], Deck]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the service on one folder, as often as a test likes."""
    running: list[Service] = []

    def begin() -> Deck:
        service = Service(tmp_path, "--speed", "60")
        running.append(service)
        return Deck(service, *(service.client(name) for name in ("sagemaker", "sagemaker-runtime", "cloudwatch")))

    yield begin
    for service in running:
        if service.process.poll() is None:
            assert service.stop() == 0


def now(deck: Deck) -> float:
    date = requests.get(f"{deck.service.url}/_slimline/info", timeout=10).headers["date"]
    return parsedate_to_datetime(date).timestamp()


def pids(deck: Deck, endpoint: str) -> list[int]:
    return [
        instance["pid"]
        for fleet in deck.service.fleets(endpoint)["fleets"]
        for part in fleet["variants"].values()
        for instance in part["instances"]
    ]


def scaled(deck: Deck, endpoint: str, variant: str) -> dict[str, Any]:
    """A target with a policy and a schedule, as they are described."""
    scaling = deck.service.client("application-autoscaling")
    where = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    config = {"TargetValue": 1000.0, "PredefinedMetricSpecification": metric}
    scaling.register_scalable_target(**where, MinCapacity=1, MaxCapacity=4)
    scaling.put_scaling_policy(
        **where, PolicyName="p", PolicyType="TargetTrackingScaling", TargetTrackingScalingPolicyConfiguration=config
    )
    action = {"MinCapacity": 2, "MaxCapacity": 4}
    scaling.put_scheduled_action(
        **where, ScheduledActionName="s", Schedule="at(2999-01-01T00:00:00)", ScalableTargetAction=action
    )
    return described(deck)


def described(deck: Deck) -> dict[str, Any]:
    scaling = deck.service.client("application-autoscaling")
    return {
        "targets": scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"],
        "policies": scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"],
        "actions": scaling.describe_scheduled_actions(ServiceNamespace="sagemaker")["ScheduledActions"],
    }


def test_everything_is_there_after_a_stop(start: Start) -> None:
    deck = start()
    config = deck.config(variant("a", deck.model(), weight=3.0), variant("b", deck.model()))
    endpoint = deck.endpoint(config)
    desired = [{"VariantName": "b", "DesiredWeight": 0.5, "DesiredInstanceCount": 2}]
    deck.sagemaker.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=desired)
    deck.settled(endpoint)
    arn = deck.describe(endpoint)["EndpointArn"]
    deck.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "run", "Value": "7"}])
    alarm = deck.alarm(endpoint, config)
    deck.cloudwatch.put_composite_alarm(AlarmName="either", AlarmRule=f"ALARM({alarm}) OR FALSE")
    deck.cloudwatch.put_dashboard(DashboardName="board", DashboardBody='{"widgets": []}')
    scaling = scaled(deck, endpoint, "a")
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="a/b.txt", Body=b"hello", Metadata={"digest": "d"}, ContentType="text/plain")
    before, shown = now(deck), deck.describe(endpoint)
    assert deck.service.stop() == 0

    deck = start()
    assert now(deck) >= before
    found = deck.settled(endpoint)
    for name in ("EndpointArn", "EndpointConfigName", "CreationTime"):
        assert found[name] == shown[name]
    assert found["EndpointStatus"] == "InService"
    weights = {
        each["VariantName"]: (each["CurrentWeight"], each["CurrentInstanceCount"])
        for each in found["ProductionVariants"]
    }
    assert weights == {"a": (3.0, 1), "b": (0.5, 2)}
    assert deck.ask(endpoint, TargetVariant="b")["Body"].read()
    assert deck.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "run", "Value": "7"}]
    names = [each["AlarmName"] for each in deck.cloudwatch.describe_alarms()["MetricAlarms"]]
    assert alarm in names and len(names) == 3  # and the two of target tracking
    kept = deck.cloudwatch.describe_alarms(AlarmTypes=["CompositeAlarm"])["CompositeAlarms"]
    assert [each["AlarmRule"] for each in kept] == [f"ALARM({alarm}) OR FALSE"]
    assert deck.cloudwatch.get_dashboard(DashboardName="board")["DashboardBody"] == '{"widgets": []}'
    assert described(deck) == scaling
    item = deck.service.client("s3").get_object(Bucket="kept", Key="a/b.txt")
    assert (item["Body"].read(), item["Metadata"], item["ContentType"]) == (b"hello", {"digest": "d"}, "text/plain")
    deck.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_killed_in_the_middle_of_a_rollout_it_finishes_it(start: Start) -> None:
    deck = start()
    old, new = deck.config(count=2), deck.config(count=2)
    endpoint = deck.endpoint(old)
    update(deck, endpoint, new, canary(50, wait=600, end=60))
    until(
        lambda: deck.service.fleets(endpoint), lambda seen: [fleet["weight"] for fleet in seen["fleets"]] == [0.5, 0.5]
    )
    left = pids(deck, endpoint)
    assert len(left) == 4
    for _ in range(5):
        deck.ask(endpoint)
    journal = deck.service.data / "metrics.jsonl"
    until(lambda: journal.exists() and '"Invocations"' in journal.read_text(), bool)
    deck.service.process.send_signal(signal.SIGKILL)
    deck.service.process.wait(timeout=10)
    until(lambda: [pid for pid in left if _runs(pid)], lambda alive: alive == [], seconds=20)

    deck = start()
    seen = {deck.describe(endpoint)["EndpointStatus"]}
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        update(deck, endpoint, old)
    found = deck.settled(endpoint)
    assert seen <= {"SystemUpdating", "Updating"}
    where = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "main"}]
    points = deck.cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker", MetricName="Invocations", Dimensions=where, Statistics=["Sum"], Period=60,
        StartTime=now(deck) - 7200, EndTime=now(deck),
    )["Datapoints"]  # fmt: skip
    assert sum(point["Sum"] for point in points) == 5, "evidence outlives the service"
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", new)
    assert deck.ask(endpoint)["Body"].read()
    deck.sagemaker.delete_endpoint(EndpointName=endpoint)


def kill(deck: Deck) -> None:
    deck.service.process.send_signal(signal.SIGKILL)
    deck.service.process.wait(timeout=10)


def test_killed_in_rolling_updates_one_finishes_and_those_that_were_to_go_back_are_back(start: Start) -> None:
    deck = start()
    old, new = deck.config(count=2), deck.config(count=2)
    going, returning, mixed = (deck.endpoint(old) for _ in range(3))
    for endpoint, kind in ((returning, "stuck_creating"), (mixed, "failed_start")):
        for fault in ({"kind": "silent_rollback"}, {"kind": kind, "config": old}):
            url = f"{deck.service.url}/_slimline/faults"
            assert requests.post(url, json={**fault, "endpoint": endpoint}, timeout=10).status_code == 201
        update(deck, endpoint, new, rolling(1, wait=0))
    assert deck.settled(mixed)["EndpointStatus"] == "UpdateRollbackFailed"
    update(deck, going, new, rolling(1, wait=240))
    until(lambda: deck.service.fleets(going)["fleets"], lambda fleets: [f["weight"] for f in fleets] == [0.5, 0.5])

    def saved() -> list[bool]:
        endpoints = json.loads((deck.service.data / "state.json").read_text())["endpoints"]
        return [bool(each["deploying"]) for each in endpoints]

    until(saved, lambda deploying: deploying == [True, False, False])
    assert deck.describe(returning)["EndpointStatus"] == "Updating"
    deck.service.process.send_signal(signal.SIGKILL)
    deck.service.process.wait(timeout=10)

    deck = start()
    for endpoint, config in ((going, new), (returning, old), (mixed, old)):
        found = deck.settled(endpoint)
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", config)
        assert "FailureReason" not in found
        assert [fleet["instances"] for fleet in deck.service.fleets(endpoint)["fleets"]] == [2]
        deck.sagemaker.delete_endpoint(EndpointName=endpoint)


def test_what_was_being_made_is_made(start: Start) -> None:
    deck = start()
    jobs = Jobs(deck)
    jobs.put(slow=b"wait")
    mirrored = deck.service.data / "s3" / "buckets.json"
    until(lambda: mirrored.exists() and "in/slow" in mirrored.read_text(), bool)
    job = jobs.start()
    requests.post(f"{deck.service.url}/_slimline/faults", json={"kind": "stuck_creating"}, timeout=10)
    deck.sagemaker.create_endpoint(EndpointName="young", EndpointConfigName=deck.config())
    deck.service.process.send_signal(signal.SIGKILL)
    deck.service.process.wait(timeout=10)
    deck = start()
    jobs.deck = deck
    assert jobs.describe(job)["TransformJobStatus"] == "InProgress"
    assert deck.settled("young")["EndpointStatus"] == "InService"
    until(lambda: processes(deck), lambda count: count == 1)
    deck.sagemaker.stop_transform_job(TransformJobName=job)
    assert jobs.ended(job)["TransformJobStatus"] == "Stopped"


def test_what_was_deleted_stays_deleted(start: Start) -> None:
    deck = start()
    model = deck.model()
    deck.sagemaker.delete_model(ModelName=model)
    s3 = deck.service.client("s3")
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="gone", Body=b"x")
    time.sleep(1.0)  # it is copied, and then taken back
    s3.delete_object(Bucket="kept", Key="gone")
    assert deck.service.stop() == 0
    deck = start()
    assert deck.sagemaker.list_models()["Models"] == []
    assert deck.service.client("s3").list_objects_v2(Bucket="kept")["KeyCount"] == 0
    assert not list((deck.service.data / "s3" / "objects").glob("*"))


def test_a_torn_file_is_not_taken_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"version": 1, "mod')
    command = [sys.executable, "-m", "deployments.local.endpoint_service", "--port", "0", "--data", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "state.json is not JSON" in ended.stderr and "move it away" in ended.stderr
    assert (tmp_path / "state.json").read_text() == '{"version": 1, "mod'


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
