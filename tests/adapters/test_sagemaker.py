"""The adapter against the embedded endpoint service: real processes, real HTTP, unmodified boto3 underneath."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tasks.adapters.owners import owner
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import BadAnswer, EndpointMissing, NoCredentials, NoRegion
from tasks.adapters.sagemaker_history import History
from tasks.adapters.sagemaker_observe import alone_since, own_or_whole
from tasks.contracts import ModelPackage, Observation
from tasks.errors import RefusedRequest, ReleaseStuck
from tasks.plans import Rehearsal, ReleasePlan
from tasks.serving.canary import Verdict, judge_release
from tasks.serving.traffic import send_traffic
from tests.adapters.packages import ROLE, package
from tests.local.stack import Service

STUB = Path(__file__).with_name("stub_server.py")
SPEED = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[str]:
    stub = f"slimline-stub={sys.executable} {STUB}"
    service = Service(tmp_path_factory.mktemp("service"), "--speed", str(SPEED), "--runtime", stub)
    yield service.url
    service.stop()


@pytest.fixture
def cloud(url: str, tmp_path: Path) -> SageMaker:
    return SageMaker("us-east-1", url, "slimline-test", ROLE, tmp_path / "ledger.jsonl")


def plan(endpoint: str, error_share: float = 0.0, bake_seconds: int = 120) -> ReleasePlan:
    rehearsal = Rehearsal(requests_per_second=20, error_share=error_share)
    return ReleasePlan(endpoint=endpoint, bake_seconds=bake_seconds, rehearsal=rehearsal)


def packaged(cloud: SageMaker, tmp_path: Path, version: str) -> ModelPackage:
    """A model folder that says its version, uploaded."""
    folder = tmp_path / f"v{version}"
    folder.mkdir()
    (folder / "says.txt").write_text(f"version {version}")
    digest = version.rjust(64, "0")
    return package(version, "slimline-stub:1", cloud.upload(folder, digest), digest)


def settled(cloud: SageMaker, endpoint: str) -> None:
    deadline = time.monotonic() + 90
    while (serving := cloud.serving(endpoint)) is None or serving.status != "InService":
        assert serving is None or serving.status != "Failed", serving
        assert time.monotonic() < deadline, serving
        time.sleep(0.1)


def watch(cloud: SageMaker, blue: str, wanted: str, plan: ReleasePlan) -> tuple[Verdict, list[Observation]]:
    """Send traffic and look until there is a verdict."""
    # From the running minute on: no config of these tests had traffic before, and at this speed a bad canary may have
    # come and gone within one.
    stop, since, seen = threading.Event(), cloud.now() // 60 * 60, []
    sender = threading.Thread(
        target=send_traffic,
        args=(
            lambda prompt: cloud.send(plan.endpoint, prompt, {}),
            ["a", "b"],
            plan.rehearsal.requests_per_second,
            stop,
            90,
        ),
    )
    sender.start()
    try:
        deadline = time.monotonic() + 90
        verdict = Verdict.WAIT
        while verdict is Verdict.WAIT and time.monotonic() < deadline:
            seen.append(cloud.observe(plan.endpoint, blue, wanted, since))
            verdict = judge_release(seen[-1].status, cloud.serving_config(plan.endpoint), wanted)
            time.sleep(0.1)
    finally:
        stop.set()
        sender.join()
    # A canary's last minutes of metrics arrive with the next whole minute of the service's clock.
    time.sleep(60 / SPEED + 0.2)
    seen.append(cloud.observe(plan.endpoint, blue, wanted, since))
    return verdict, seen


def test_a_good_canary_is_promoted_and_nothing_is_left(cloud: SageMaker, tmp_path: Path) -> None:
    asked = plan("good")
    first, second = packaged(cloud, tmp_path, "1"), packaged(cloud, tmp_path, "2")
    assert cloud.serving("good") is None
    blue = cloud.rollouts.create("good", first, asked)
    assert cloud.rollouts.create("good", first, asked) == blue
    settled(cloud, "good")
    assert cloud.probe("good", "hello") == "version 1"
    before = cloud.serving("good")
    assert before is not None
    assert (before.config, before.version, before.instances) == (blue, "1", 2)

    green = cloud.rollouts.update("good", second, asked)
    assert green == cloud.config_name(second, asked) != blue
    assert cloud.rollouts.update("good", second, asked) == green  # asked again while it runs: nothing happens
    with pytest.raises(ReleaseStuck, match="cannot be updated now"):
        cloud.rollouts.update("good", first, plan("good", error_share=0.5))
    verdict, seen = watch(cloud, blue, green, asked)

    assert verdict is Verdict.PROMOTE, seen
    assert cloud.probe("good", "hello") == "version 2"
    after = cloud.serving("good")
    assert after is not None
    assert (after.config, after.version) == (green, "2")
    assert cloud.rollouts.update("good", second, asked) == green  # and after it was promoted
    baking = [look for look in seen if look.status == "Updating/Baking"]
    assert {look.green.weight for look in baking if look.green} >= {0.5, 1.0}
    assert all(look.blue and look.green and look.blue.weight + look.green.weight == 1 for look in seen)
    last = seen[-1]
    assert last.blue
    assert last.green
    assert last.blue.requests > 0
    assert last.green.requests > 0
    assert last.green.errors == 0
    assert last.green.recent_ms and last.green.recent_p90_ms and last.green.recent_p90_ms < 60_000
    assert set(last.alarms) == {f"{green}-{kind}" for kind in ("errors", "latency", "judge")}

    # What serves and what is kept stays; alarms have no more to say once the rollout has ended; the rest goes.
    assert set(cloud.sweep(keep={blue})) == {f"alarm {name}" for name in last.alarms}
    cloud.remove_alarms(green)
    assert cloud.sweep() == [f"endpoint-config {blue}", f"model {blue}"]
    cloud.delete_endpoint("good", poll_seconds=0.1)
    cloud.delete_endpoint("good", poll_seconds=0.1)
    assert cloud.sweep() == [f"endpoint-config {green}", f"model {green}"]
    assert cloud.sweep() == []


def test_a_bad_canary_is_restored_by_itself(cloud: SageMaker, tmp_path: Path) -> None:
    good, bad = plan("bad"), plan("bad", error_share=0.5, bake_seconds=300)
    first, second = packaged(cloud, tmp_path, "1"), packaged(cloud, tmp_path, "2")
    blue = cloud.rollouts.create("bad", first, good)
    settled(cloud, "bad")
    green = cloud.rollouts.update("bad", second, bad)
    verdict, seen = watch(cloud, blue, green, bad)

    assert verdict is Verdict.RESTORE, seen
    assert cloud.serving_config("bad") == blue
    assert cloud.probe("bad", "hello") == "version 1"
    assert any(look.alarms.get(f"{green}-errors") == "ALARM" for look in seen)
    last = seen[-1]
    assert last.green
    assert last.green.errors > 0
    assert 0.3 < last.green.errors / last.green.requests < 0.7
    assert last.blue
    assert last.blue.errors == 0

    # Released again without the fault, the same version is promoted: the alarm's old state does not stand in its way.
    again = cloud.rollouts.update("bad", second, good)
    assert again != green
    assert watch(cloud, blue, again, good)[0] is Verdict.PROMOTE
    cloud.delete_endpoint("bad", poll_seconds=0.1)
    swept = cloud.sweep()
    assert len(swept) == 12  # three configs, three models, twice three alarms
    assert cloud.sweep() == []


def test_counts_that_autoscaling_reached_survive_an_update(cloud: SageMaker, url: str, tmp_path: Path) -> None:
    asked = ReleasePlan(endpoint="scaled", mode="ALL_AT_ONCE", bake_seconds=60, instances=1)
    blue = cloud.rollouts.create("scaled", packaged(cloud, tmp_path, "1"), asked)
    settled(cloud, "scaled")
    cloud._aws._client("sagemaker", 1).update_endpoint_weights_and_capacities(
        EndpointName="scaled", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 2}]
    )
    settled(cloud, "scaled")
    green = cloud.rollouts.update("scaled", packaged(cloud, tmp_path, "2"), asked)
    settled(cloud, "scaled")
    serving = cloud.serving("scaled")
    assert serving is not None
    assert (serving.config, serving.instances, serving.configured_instances) == (green, 2, 1)
    assert (cloud.history("scaled").moving_from, cloud.history("scaled").purpose) == (blue, "release")
    cloud.rollouts.restore("scaled", blue)
    cloud.rollouts.restore("scaled", blue)  # asked again while it runs: nothing happens
    settled(cloud, "scaled")
    cloud.rollouts.restore("scaled", blue)  # and after it has ended
    serving = cloud.serving("scaled")
    assert serving is not None
    assert (serving.config, serving.instances, serving.configured_instances) == (blue, 2, 1)
    assert (cloud.history("scaled").moving_to, cloud.history("scaled").purpose) == (blue, "restore")
    cloud.close("scaled", previous=None)
    assert cloud.history("scaled") == History(known=True)
    cloud.delete_endpoint("scaled", poll_seconds=0.1)
    assert len(cloud.sweep()) == 7
    assert blue != green


def test_everything_carries_the_run_that_made_it(cloud: SageMaker, url: str, tmp_path: Path) -> None:
    ours = SageMaker("us-east-1", url, "slimline-test", ROLE, tmp_path / "run.jsonl", run="flow-run-7")
    asked = plan("tagged")
    config = ours.rollouts.create("tagged", packaged(ours, tmp_path, "1"), asked)
    sagemaker = ours._aws._client("sagemaker", 1)
    arns = [
        sagemaker.describe_endpoint(EndpointName="tagged")["EndpointArn"],
        sagemaker.describe_endpoint_config(EndpointConfigName=config)["EndpointConfigArn"],
        sagemaker.describe_model(ModelName=config)["ModelArn"],
    ]
    for arn in arns:
        tags = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
        assert (tags["slimline:flow-run"], tags["slimline:version"]) == ("flow-run-7", "1")
    assert {(entry.kind, entry.run) for entry in ours._ledger.open_entries()} == {
        (kind, "flow-run-7") for kind in ("model", "endpoint-config", "endpoint")
    }
    settled(ours, "tagged")
    ours.delete_endpoint("tagged", poll_seconds=0.1)
    assert len(ours.sweep()) == 2


def test_a_rollout_counts_no_requests_of_the_minute_before_it_began(cloud: SageMaker, tmp_path: Path) -> None:
    """An earlier try of the same config may have had them; and what counts is counted once, by one of two metrics."""
    asked = plan("counted")
    config = cloud.rollouts.create("counted", packaged(cloud, tmp_path, "1"), asked)
    settled(cloud, "counted")
    created = cloud.now()
    while cloud.now() // 60 == created // 60:
        time.sleep(0.1)
    sent, same_minute = 0, False
    while not same_minute:
        before = cloud.now()
        sent += sum(cloud.send("counted", "a", {}) == 200 for _ in range(3))
        since = cloud.now()
        same_minute = since // 60 == before // 60
    while cloud.now() < since + 120:
        time.sleep(0.1)
    seen = cloud.observe("counted", None, config, since).green
    assert seen is not None and seen.requests == 0
    whole = cloud.observe("counted", None, config, created - 120).green
    assert whole is not None and whole.requests == sent


def test_a_fleet_without_metrics_of_its_own_is_counted_by_the_variants() -> None:
    """From when it has all the traffic; before, the variant's metric has the old fleet's requests too."""
    assert own_or_whole({}, {0.0: 7.0, 60.0: 3.0, 120.0: 4.0}, alone=50.0) == {60.0: 3.0, 120.0: 4.0}
    assert own_or_whole({0.0: 2.0}, {0.0: 7.0, 60.0: 3.0}, alone=50.0) == {0.0: 2.0, 60.0: 3.0}
    assert own_or_whole({60.0: 3.0}, {60.0: 5.0}, alone=50.0) == {60.0: 3.0}


def test_a_fleet_is_alone_once_nothing_moves_any_more() -> None:
    seen = {
        "EndpointConfigName": "new",
        "EndpointStatus": "InService",
        "LastModifiedTime": datetime.fromtimestamp(9, UTC),
    }
    assert alone_since(seen, "new") == 9.0
    assert alone_since(seen, "old") is None
    assert alone_since(seen | {"EndpointStatus": "Updating"}, "new") is None
    assert alone_since(seen | {"PendingDeploymentSummary": {"EndpointConfigName": "newer"}}, "new") is None


def test_upload_sends_each_file_once_and_repairs_a_changed_one(cloud: SageMaker, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.bin").write_bytes(bytes(17 << 20))  # more than one part
    (folder / "manifest.json").write_text("{}")
    uri = cloud.upload(folder, "d" * 64)
    assert uri == f"s3://slimline-test/models/{'d' * 64}/"
    s3 = cloud._aws.s3
    prefix = uri.removeprefix("s3://slimline-test/")

    def listed() -> dict[str, object]:
        found = s3.list_objects_v2(Bucket="slimline-test", Prefix=prefix)["Contents"]
        return {entry["Key"].removeprefix(prefix): entry["LastModified"] for entry in found}

    first = listed()
    assert set(first) == {"a.txt", "sub/b.bin"}
    time.sleep(1.1)  # S3's times are whole seconds
    s3.put_object(Bucket="slimline-test", Key=f"{prefix}a.txt", Body=b"?")
    cloud.upload(folder, "d" * 64)
    assert s3.get_object(Bucket="slimline-test", Key=f"{prefix}a.txt")["Body"].read() == b"a"
    assert listed()["sub/b.bin"] == first["sub/b.bin"]


def test_what_is_missing_or_unwell_is_named(cloud: SageMaker, url: str, tmp_path: Path) -> None:
    asked = plan("absent")
    with pytest.raises(EndpointMissing, match="no endpoint absent"):
        cloud.rollouts.update("absent", package(), asked)
    with pytest.raises(EndpointMissing):
        cloud.probe("absent", "hello")
    with pytest.raises(EndpointMissing):
        cloud.observe("absent", None, "config", cloud.now())
    assert cloud.send("absent", "hello", {}) == 400
    assert SageMaker("us-east-1", "http://127.0.0.1:9", "b", ROLE, tmp_path / "l").send("x", "y", {}) == 0


def test_a_failing_probe_is_no_success(cloud: SageMaker, tmp_path: Path) -> None:
    asked = ReleasePlan(endpoint="sick", instances=1, mode="ALL_AT_ONCE", rehearsal=Rehearsal(error_share=1.0))
    cloud.rollouts.create("sick", packaged(cloud, tmp_path, "1"), asked)
    settled(cloud, "sick")  # InService, and yet
    with pytest.raises(BadAnswer, match="status 500"):
        cloud.probe("sick", "hello")
    assert cloud.send("sick", "hello", {}) == 500
    cloud.delete_endpoint("sick", poll_seconds=0.1)
    assert len(cloud.sweep()) == 2


def test_it_says_that_it_is_a_rehearsal_and_by_whose_clock(cloud: SageMaker) -> None:
    assert "60 times as fast" in cloud.describe_rehearsal()
    first, begun = cloud.now(), time.monotonic()
    time.sleep(1.0)
    assert cloud.now() - first >= 0.5 * SPEED * (time.monotonic() - begun)


def test_a_sweep_spares_what_another_live_process_is_making(cloud: SageMaker, tmp_path: Path) -> None:
    ledger = cloud._ledger
    ledger.creating("endpoint-config", "theirs")
    text, parent = ledger.path.read_text(), psutil.Process(os.getppid())
    theirs = f"{socket.gethostname()}:{parent.pid}:{parent.create_time():.2f}"
    ledger.path.write_text(text.replace(owner(), theirs))
    assert cloud.sweep() == []
    elsewhere = theirs.replace(socket.gethostname(), "another-host")
    ledger.path.write_text(text.replace(owner(), elsewhere))
    assert cloud.sweep() == [], "of another host only the age is known"
    reused = f"{socket.gethostname()}:{parent.pid}:{parent.create_time() - 100:.2f}"  # dead, its pid somebody else's
    ledger.path.write_text(text.replace(owner(), reused) + '\n{"event": "crea')  # and a torn line
    ledger.creating("model", "mine")
    assert cloud.sweep() == ["endpoint-config theirs", "model mine"]


def test_what_is_asked_for_is_in_the_ledger_before_it_is_there(cloud: SageMaker, tmp_path: Path) -> None:
    """The service refuses the endpoint, so this process could have died at the call as well."""
    many = ReleasePlan(endpoint="many", instances=100)
    with pytest.raises(RefusedRequest, match="quota"):
        cloud.rollouts.create("many", packaged(cloud, tmp_path, "1"), many)
    left = [(entry.kind, entry.name) for entry in cloud._ledger.open_entries()]
    assert [kind for kind, _ in left] == ["model", "endpoint-config", "endpoint"]
    name = left[0][1]
    assert cloud.sweep("man") == [], "not of this endpoint"
    assert cloud.sweep("many") == [f"endpoint-config {name}", f"model {name}"]
    assert cloud._ledger.open_entries() == [], "the endpoint that was never made is closed too"


def test_no_region_and_no_credentials_are_named(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(NoRegion, match="no AWS region"):
        SageMaker(None, url, "b", ROLE, tmp_path / "ledger")
    with pytest.raises(NoCredentials, match="needs AWS credentials"):
        SageMaker("us-east-1", url, "b", ROLE, tmp_path / "ledger").now()


def test_a_vpc_endpoint_or_a_wrong_bucket_is_not_the_embedded_stack(tmp_path: Path) -> None:
    plain = SageMaker("us-east-1", None, "b", ROLE, tmp_path / "ledger")
    assert plain.describe_rehearsal() == ""
    with pytest.raises(RefusedRequest, match="embedded stack only"):
        plain.check_plan(plan("x"))
