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
from tasks.adapters.document_digests import in_order, written
from tasks.adapters.texts import Text
from tasks.captured import check_captured, documents_of, place_of, read_captured
from tasks.contracts import DatasetRef
from tasks.data_card import data_card
from tasks.data_contracts import DataText
from tasks.errors import ArtifactDamaged, RefusedData
from tasks.monitoring_plan import MonitoringPlan
from tasks.recipes import DataChoice
from tasks.settings import settings
from tasks.text_sources import read_source, text_again, text_of_digest
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


def test_what_slimline_sends_itself_is_no_text_to_learn(desk: Desk) -> None:
    """A rehearsal's prompts are the held-out text, in pieces that are too short for the leakage check."""
    plan = plan_of("slimline-rehearsed", "ALL_AT_ONCE", monitoring=MonitoringPlan(capture_percent=100))
    desk.serve(plan)
    source, cloud = f"capture://{plan.endpoint}", desk.cloud()
    assert [cloud.send(plan.endpoint, f"held-out passage {number}", {}) for number in range(3)] == [200] * 3
    assert cloud.probe(plan.endpoint, "The capital of France is")
    until(lambda: _there(source), bool, 30)
    until(lambda: _refused_with(source, "4 that Slimline sent itself"), bool, 30)
    assert invoke(desk.url, plan.endpoint, "Where is Paris?") == 200
    text = until(lambda: _text(source), lambda seen: _count(seen) == 1, 30)
    assert text.documents == ("Where is Paris?",) and text.left_out == "4 that Slimline sent itself"
    assert read_captured(f"{source}?answers=true").documents == ("Where is Paris?",)


def _text(source: str) -> Text | None:
    try:
        return read_captured(source)
    except RefusedData:
        return None


def _refused_with(source: str, said: str) -> bool:
    try:
        read_captured(source)
    except RefusedData as refusal:
        return said in str(refusal)
    return False


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
    forget()
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
        ('{"messages": ["hi"]}', said("b"), [], []),
        ('{"messages": [{"content": "a"}, 1]}', '[{"message": "oops"}]', ["a"], ["a"]),
        pytest.param("[" * 20_000, said("b"), [], [], id="a request nested too deep"),
        pytest.param(asked("a"), "[" * 20_000, ["a"], ["a"], id="an answer nested too deep"),
        ('{"inputs": ["\\ud800", "a"]}', said("\ud800"), ["a"], ["a"]),
        ("no JSON: \ud800", said("b"), [], []),
    ],
)  # fmt: skip
def test_bodies_that_containers_take(request_body: str, answer: str, prompts: list[str], both: list[str]) -> None:
    exchange = Exchange(request_body, answer)
    assert list(documents_of(exchange, answers=False)) == prompts
    assert list(documents_of(exchange, answers=True)) == both


def test_one_odd_request_does_not_stop_what_the_others_say(desk: Desk) -> None:
    """Whoever may ask the endpoint could stop every later run otherwise."""
    odd = ['{"messages": ["hi"]}', "[" * 20_000, '{"inputs": "\\ud800"}', '{"inputs": 1}']
    put(desk, "odd/a.jsonl", *((each, '[{"message": "oops"}]') for each in odd), (asked("a"), said(" b")))
    source = f"capture+s3://{BUCKET}/odd/"
    for answers, document in (("", "a"), ("?answers=true", "a b")):
        found = read_captured(source + answers)
        assert (found.documents, found.left_out) == ((document,), "4 without a text")
    assert "- Left out: 4 without a text\n" in card_of(DataChoice(source=source))


def card_of(choice: DataChoice) -> str:
    blocks = DatasetRef(
        uri="datasets/1", digest="d", name="n", licence="l", block_tokens=32, calibration_blocks=1, training_blocks=1,
        evaluation_blocks=1,
    )  # fmt: skip
    return data_card(choice, DataText(text=read_source(choice)), blocks, None)


def test_the_newest_are_kept_and_it_is_said_that_there_were_more(desk: Desk) -> None:
    put(desk, "many/a.jsonl", *((asked(text), said("")) for text in ("one", "two", "one", "three")))
    put(desk, "many/b.jsonl", *((asked(text), said("")) for text in ("four", "two", " four ")))
    every = DataChoice(source=f"capture+s3://{BUCKET}/many/")
    whole = read_source(every)
    assert (whole.documents, whole.cut, whole.duplicates) == (4, False, 3)
    some = every.model_copy(update={"most_documents": 3})
    assert text_again(some, read_source(some)).documents == ("three", "two", "four")
    assert read_source(some).cut
    assert "3 different ones, the newest ones of more (data.most_documents = 3)" in card_of(some)
    assert " of more" not in card_of(every)


def test_as_many_of_the_newest_are_read_as_are_asked_for(desk: Desk) -> None:
    """Above 100,000 the oldest were kept."""
    lines = [
        json.dumps({"captureData": {"endpointInput": {"data": f"q{n}", "encoding": "CSV"}}}) for n in range(100_200)
    ]
    s3(desk).put_object(Bucket=BUCKET, Key="lots/a.jsonl", Body="\n".join(lines).encode())
    found = read_captured(f"capture+s3://{BUCKET}/lots/", 100_100)
    assert len(found.documents) == 100_100 and found.documents[-1] == "q100199" and found.cut


def test_a_text_is_taken_again_out_of_what_has_been_asked_since(desk: Desk) -> None:
    put(desk, "grown/a.jsonl", *((asked(text), said("")) for text in ("one", "two", "three")))
    choice = DataChoice(source=f"capture+s3://{BUCKET}/grown/", most_documents=3)
    had = read_source(choice)
    listed = in_order(written(text_again(choice, had).documents))
    put(desk, "grown/b.jsonl", *((asked(text), said("")) for text in ("one", "four", "five", "six")))
    forget()
    found = text_of_digest(choice, had.digest, "", listed)
    assert (found.digest, text_again(choice, found).documents) == (had.digest, ("one", "two", "three"))
    forget()
    assert text_of_digest(choice, had.digest, "", sorted(listed)).digest != had.digest, "no order, so not to be had"


def test_a_text_is_taken_again_out_of_objects_with_new_ones_before_them(desk: Desk) -> None:
    s3(desk).put_object(Bucket=BUCKET, Key="texts/m.txt", Body=b"one\n\ntwo\n")
    choice = DataChoice(source=f"s3://{BUCKET}/texts/", most_documents=2)
    had = read_source(choice)
    s3(desk).put_object(Bucket=BUCKET, Key="texts/a.txt", Body=b"three\n\nfour\n\ntwo\n")
    forget()
    assert text_of_digest(choice, had.digest, "", in_order(written(["one", "two"]))).digest == had.digest


def forget() -> None:
    for kept in (settings().downloads / "texts").iterdir():
        kept.unlink()


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
