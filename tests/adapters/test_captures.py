"""What a shadow has answered, read from S3: each object once, from the hour of the trial on, and never all at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tasks.adapters.sagemaker import SageMaker
from tasks.contracts import Pair, Shift
from tasks.findings import Tally
from tests.adapters.packages import ROLE
from tests.local.stack import Service

BUCKET, SINCE = "slimline-test", 1_795_759_200.0  # 2026-11-27T06:00:00Z
VARIANTS = ("AllTraffic", "challenger")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[str]:
    service = Service(tmp_path_factory.mktemp("service"))
    yield service.url
    service.stop()


def write(url: str, endpoint: str, hour: int, variant: str, events: range, *, named: bool = False) -> None:
    """One object, as SageMaker writes it, with an answer a line. ``named``: each request had an InferenceId."""
    lines = [
        {
            "captureData": {"endpointOutput": {"data": f"answer {event}", "encoding": "JSON"}},
            "eventMetadata": {"eventId": f"event-{event}", "inferenceTime": f"2026-11-27T{hour:02}:10:00Z"}
            | ({"inferenceId": f"inference-{event}"} if named else {}),
        }
        for event in events
    ]
    s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    key = f"captures/{endpoint}/{variant}/2026/11/27/{hour:02}/10-00-000-{variant}.jsonl"
    s3.put_object(Bucket=BUCKET, Key=key, Body="".join(json.dumps(line) + "\n" for line in lines).encode())


def test_objects_of_earlier_hours_are_not_read_and_none_twice(url: str, tmp_path: Path) -> None:
    for variant in VARIANTS:
        for hour in (4, 5, 6, 7):
            write(url, "hours", hour, variant, range(10 * hour, 10 * hour + 3))
    cloud, read = SageMaker("us-east-1", url, BUCKET, ROLE, tmp_path / "ledger.jsonl"), list[str]()

    def note(params: dict[str, Any], **more: Any) -> None:
        read.append(params["Key"])

    cloud._aws.client("s3").meta.events.register("provide-client-params.s3.GetObject", note)
    captures = cloud.evidence.captures(Shift(endpoint="hours", wanted_config="new", previous_config="old", since=SINCE))
    first = list(captures.new())
    assert sorted(pair.event for pair in first) == [f"event-{event}" for event in (60, 61, 62, 70, 71, 72)]
    assert all(pair.baseline == pair.candidate for pair in first)
    assert sorted(key.split("/")[-2] for key in read) == ["06", "06", "07", "07"]

    write(url, "hours", 8, "AllTraffic", range(80, 82))
    assert list(captures.new()) == []
    write(url, "hours", 8, "challenger", range(80, 82))
    assert [pair.event for pair in captures.new()] == ["event-80", "event-81"]
    assert len(read) == 6


def test_a_long_trial_is_paired_hour_by_hour(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read variant after variant, the first answers would be forgotten before their partners come."""
    monkeypatch.setattr("tasks.adapters.captures._MOST", 3)
    for variant in VARIANTS:
        for hour in (6, 7, 8):
            write(url, "long", hour, variant, range(10 * hour, 10 * hour + 3))
    cloud = SageMaker("us-east-1", url, BUCKET, ROLE, tmp_path / "ledger.jsonl")
    captures = cloud.evidence.captures(Shift(endpoint="long", wanted_config="new", previous_config="old", since=SINCE))
    assert len(list(captures.new())) == 9


def test_a_pair_leaves_nothing_that_an_answer_without_partner_would_have_to_go_for(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal's requests have InferenceIds, so each line has two keys."""
    monkeypatch.setattr("tasks.adapters.captures._MOST", 8)
    write(url, "late", 6, "AllTraffic", range(60, 61), named=True)
    for hour in (7, 8):
        for variant in VARIANTS:
            write(url, "late", hour, variant, range(10 * hour, 10 * hour + 3), named=True)
    write(url, "late", 9, "challenger", range(60, 61), named=True)
    cloud = SageMaker("us-east-1", url, BUCKET, ROLE, tmp_path / "ledger.jsonl")
    captures = cloud.evidence.captures(Shift(endpoint="late", wanted_config="new", previous_config="old", since=SINCE))
    assert sorted(pair.event for pair in captures.new()) == [f"event-{each}" for each in (60, 70, 71, 72, 80, 81, 82)]


def test_pairs_are_counted_as_they_pass_and_the_least_alike_are_kept() -> None:
    text = "a long answer"
    pairs = (
        Pair(
            event=str(number), request=text, baseline=text, candidate=text, agreement=number / 100, same=number == 0,
            drift=2, kl=0.5 if number % 2 else None,
        )
        for number in range(100)
    )  # fmt: skip
    seen = Tally()
    assert next(passing := seen.seeing(pairs)).event == "0" and seen.count == 1
    assert sum(1 for _ in passing) == 99
    assert [pair.event for pair in seen.worst] == [str(number) for number in range(20)]
    assert seen.means() == pytest.approx({"pairs": 100, "agreement": 0.495, "same": 0.01, "drift": 2, "kl": 0.5})
