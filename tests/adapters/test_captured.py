"""Requests that an endpoint captured, as text to calibrate on: what is taken, once, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tasks.adapters.captured_lines import Exchange
from tasks.captured import check_captured, documents_of, place_of, read_captured
from tasks.errors import ArtifactDamaged, RefusedData
from tasks.monitoring_plan import MonitoringPlan
from tasks.recipes import DataChoice
from tasks.settings import settings
from tasks.text_sources import read_source, text_again
from tests.adapters.releasing import Desk, invoke, plan_of
from tests.local.stack import until

BUCKET = "slimline-test"


@pytest.fixture(autouse=True)
def here(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's settings are those of a worker on the embedded service."""
    for name, value in (
        ("AWS_ENDPOINT_URL", desk.url), ("AWS_REGION", "us-east-1"), ("SLIMLINE_BUCKET", BUCKET),
        ("SLIMLINE_HOME", str(tmp_path)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3(desk).create_bucket(Bucket=BUCKET)
    yield


def s3(desk: Desk) -> Any:
    return boto3.client("s3", endpoint_url=desk.url, region_name="us-east-1")


def put(desk: Desk, key: str, *exchanges: tuple[str, str], encoding: str = "JSON") -> None:
    def side(text: str) -> dict[str, str]:
        data = base64.b64encode(text.encode()).decode() if encoding == "BASE64" else text
        return {"data": data, "encoding": encoding, "mode": "INPUT", "observedContentType": "application/json"}

    lines = [
        {"captureData": {"endpointInput": side(asked), "endpointOutput": side(said)}, "eventMetadata": {"eventId": "1"}}
        for asked, said in exchanges
    ]
    s3(desk).put_object(Bucket=BUCKET, Key=key, Body="".join(json.dumps(line) + "\n" for line in lines).encode())


def asked(text: str) -> str:
    return json.dumps({"inputs": text})


def said(text: str) -> str:
    return json.dumps([{"generated_text": text}])


def test_what_users_ask_an_endpoint_becomes_a_text(desk: Desk) -> None:
    plan = plan_of("slimline-heard", "ALL_AT_ONCE", monitoring=MonitoringPlan(capture_percent=100))
    desk.serve(plan)
    with pytest.raises(RefusedData, match="no object below s3://slimline-test/captures/slimline-heard/AllTraffic/"):
        check_captured("capture://slimline-heard")
    for prompt in ("Where is Paris?", "Who was Ada?", "Where is Paris?", "Wer war Müller?"):
        assert invoke(desk.url, "slimline-heard", prompt) == 200
    source = "capture://slimline-heard"
    text = until(lambda: read_captured(source) if _there(source) else None, lambda seen: _count(seen) == 3, 30)
    assert sorted(text.documents) == ["Wer war Müller?", "Where is Paris?", "Who was Ada?"]
    assert text.name == "captures-of-slimline-heard" and "users" in text.licence
    both = read_captured(f"{source}?answers=true")
    assert len(both.documents) == 3 and both.digest == text.digest, "an echo's answer begins with what was asked"


def _there(source: str) -> bool:
    try:
        check_captured(source)
    except RefusedData:
        return False
    return True


def _count(text: Any) -> int:
    return len(text.documents) if text else 0


def test_what_was_read_stays_what_it_is_while_new_requests_come(desk: Desk, tmp_path: Path) -> None:
    source = f"capture+s3://{BUCKET}/elsewhere/"
    put(desk, "elsewhere/a.jsonl", (asked("one"), said(" more")), (asked("two"), said(" more")))
    choice = DataChoice(source=source)
    first = read_source(choice)
    read = text_again(choice, first)
    put(desk, "elsewhere/b.jsonl", (asked("three"), said("")), (asked("one"), said("")), encoding="BASE64")
    put(desk, "elsewhere/manifest.json", ("no", "capture"))
    assert text_again(choice, first) == read
    second = read_captured(source)
    assert second.documents == ("two", "three", "one") and second.digest != first.digest, "newest last"
    assert read_captured(f"{source}?answers=true").documents == ("one more", "two more", "three", "one")
    newest = read_source(choice.model_copy(update={"most_documents": 2}))
    assert text_again(choice, newest).documents == ("three", "one")
    for kept in (settings().downloads / "texts").iterdir():
        kept.unlink()
    with pytest.raises(ArtifactDamaged, match="has changed since"):
        text_again(choice, first)
    assert text_again(choice, read_source(choice)).documents == second.documents


@pytest.mark.parametrize(
    ("request_body", "answer", "prompts", "both"),
    [
        (asked("a"), said("b"), ["a"], ["ab"]),
        (asked("a"), said("a b"), ["a"], ["a b"]),
        ('{"inputs": ["a", "b"]}', '[{"generated_text": "1"}, {"generated_text": "2"}]', ["a", "b"], ["a1", "b2"]),
        ('{"prompt": "a"}', '{"choices": [{"text": "b"}]}', ["a"], ["ab"]),
        ('{"messages": [{"content": "a"}]}', '{"choices": [{"message": {"content": "b"}}]}', ["a"], ["ab"]),
        ("plain words", "no JSON", ["plain words"], ["plain words"]),
        (asked("a"), '{"error": "none"}', ["a"], ["a"]),
        ('{"inputs": {"question": "q", "context": "c"}}', "{}", [], []),
        ("", said("b"), [], []),
        ('{"inputs": "  "}', said("b"), [], []),
    ],
)  # fmt: skip
def test_bodies_that_containers_take(request_body: str, answer: str, prompts: list[str], both: list[str]) -> None:
    exchange = Exchange(request_body, answer)
    assert list(documents_of(exchange, answers=False)) == prompts
    assert list(documents_of(exchange, answers=True)) == both


def test_captures_without_text_and_files_that_are_none_are_refused(desk: Desk) -> None:
    put(desk, "empty/a.jsonl", ('{"inputs": {"image": 1}}', "{}"))
    with pytest.raises(RefusedData, match="no request with a text"):
        read_captured(f"capture+s3://{BUCKET}/empty/")
    s3(desk).put_object(Bucket=BUCKET, Key="other/a.jsonl", Body=b'{"text": "mine"}\n')
    with pytest.raises(RefusedData, match="line 1: KeyError"):
        read_captured(f"capture+s3://{BUCKET}/other/")
    with pytest.raises(RefusedData, match="no object"):
        check_captured("capture+s3://no-such-bucket/captures")


@pytest.mark.parametrize(
    "source",
    [
        "capture://",
        "capture://a b",
        "capture://../x",
        "capture+s3:///x",
        "capture://a?answers=maybe",
        "capture://a?other=1",
    ],
)
def test_addresses_that_are_none_are_refused_with_the_forms(source: str) -> None:
    with pytest.raises(RefusedData, match="capture://ENDPOINT"):
        place_of(source)


def test_addresses() -> None:
    assert place_of("capture://slimline-demo").prefix == "captures/slimline-demo/AllTraffic/"
    trial = place_of("capture://slimline-demo/challenger?answers=true")
    assert (trial.prefix, trial.answers, trial.bucket) == ("captures/slimline-demo/challenger/", True, BUCKET)
    assert (
        place_of("capture+s3://theirs/captures/x").prefix == "captures/x"
        and place_of("capture+s3://theirs/x").bucket == "theirs"
    )
