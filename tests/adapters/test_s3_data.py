"""Files below an S3 prefix, through real boto3 against the embedded service's S3."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.aws_connection import Connection
from tasks.adapters.documents import Reading
from tasks.adapters.s3_data import check_s3, read_s3, s3_place
from tasks.adapters.texts import Text, read_text
from tasks.errors import RefusedData
from tests.local.stack import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("s3"))
    yield running
    running.stop()


@pytest.fixture
def bucket(service: Service) -> str:
    name = f"texts-{uuid.uuid4().hex[:8]}"
    service.client("s3").create_bucket(Bucket=name)
    return name


def put(service: Service, bucket: str, **objects: bytes) -> None:
    for key, body in objects.items():
        service.client("s3").put_object(Bucket=bucket, Key=key.replace("__", "/").replace("_dot_", "."), Body=body)


def read(service: Service, source: str, downloads: Path, **changes: Any) -> Text:
    aws = Connection("us-east-1", service.url)
    check_s3(source, aws)
    return read_s3(source, aws, downloads, Reading(**changes), 1000)


def test_the_files_below_a_prefix_are_one_text(service: Service, bucket: str, tmp_path: Path) -> None:
    put(service, bucket, day__1_dot_jsonl=b'{"text": "one"}\n', day___SUCCESS=b"", day__3_dot_jsonl=b"")
    put(service, bucket, day__2_dot_jsonl_dot_gz=gzip.compress(b'{"text": "two"}\n'), day__notes_dot_pdf=b"%PDF")
    put(service, bucket, other__1_dot_jsonl=b'{"text": "three"}\n')
    text = read(service, f"s3://{bucket}/day/", tmp_path)
    by_folder = read(service, f"s3://{bucket}", tmp_path, label="/")
    assert dict(zip(by_folder.documents, by_folder.labels, strict=True)) == {
        "one": "day",
        "two": "day",
        "three": "other",
    }
    assert text.documents == ("one", "two")
    (tmp_path / "local.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert text.digest == read_text(str(tmp_path / "local.jsonl"), tmp_path).digest, "the place is not what it is"


def test_an_object_is_brought_once_and_again_when_it_changes(service: Service, bucket: str, tmp_path: Path) -> None:
    put(service, bucket, a_dot_txt=b"one\n")
    assert read(service, f"s3://{bucket}", tmp_path) == read(service, f"s3://{bucket}", tmp_path)
    assert len(list((tmp_path / "s3").iterdir())) == 1
    put(service, bucket, a_dot_txt=b"two\n")
    assert read(service, f"s3://{bucket}", tmp_path).documents == ("two",)


def test_a_bad_line_is_refused_with_its_object(service: Service, bucket: str, tmp_path: Path) -> None:
    put(service, bucket, a_dot_jsonl=b'{"text": "one"}\n{"text": \n')
    with pytest.raises(RefusedData, match=rf"s3://{bucket}/a.jsonl cannot be read\n.*line 2: no JSON"):
        read(service, f"s3://{bucket}/a", tmp_path)


def test_nothing_there_is_refused_before_any_work(service: Service, bucket: str) -> None:
    put(service, bucket, a_dot_pdf=b"%PDF", b_dot_txt=b"")
    aws = Connection("us-east-1", service.url)
    with pytest.raises(RefusedData, match=r"2 objects below .*, none that can be read"):
        check_s3(f"s3://{bucket}", aws)
    with pytest.raises(RefusedData, match="no bucket no-such-bucket"):
        check_s3("s3://no-such-bucket/a", aws)


@pytest.mark.parametrize("source", ["s3://", "s3:///a", "s3://UPPER/a", "s3://bucket/a?versionId=1", "s3://b"])
def test_what_is_no_address_is_refused_without_a_call(source: str) -> None:
    with pytest.raises(RefusedData, match="s3://bucket/prefix"):
        s3_place(source)
