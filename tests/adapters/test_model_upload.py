"""Uploads against the embedded service's S3: in parts, once, checked by digest, and mended."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.adapters.aws_connection import Connection
from tasks.adapters.model_upload import digest_of, upload
from tasks.errors import ArtifactDamaged, RefusedData
from tests.local.stack import Service

BUCKET, DIGEST = "slimline-uploads", "d" * 64
PART = 16 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("uploads"))
    yield running
    running.stop()


@pytest.fixture
def connection(service: Service) -> Connection:
    return Connection("us-east-1", service.url)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file in three parts, one of exactly one part, a small one in a folder, and a manifest that stays here."""
    made = tmp_path_factory.mktemp("model")
    (made / "model.safetensors").write_bytes(os.urandom(2 * PART + 5))
    (made / "edge.safetensors").write_bytes(os.urandom(PART))
    (made / "sub").mkdir()
    (made / "sub" / "config.json").write_text("{}")
    (made / "manifest.json").write_text("{}")
    return made


def sent(connection: Connection) -> list[str]:
    """Every request that changes S3, from now on."""
    seen: list[str] = []

    def note(model: Any, **_: Any) -> None:
        if model.name.startswith(("Put", "Upload", "Create", "Complete", "Abort")):
            seen.append(model.name)

    connection.s3.meta.events.register("before-call.s3", note)
    return seen


def test_s3s_checksum_of_a_file_is_known_before_it_is_sent(tmp_path: Path) -> None:
    data = os.urandom(2 * PART + 1)
    (tmp_path / "big").write_bytes(data)
    parts = [hashlib.sha256(data[start : start + PART]).digest() for start in range(0, len(data), PART)]
    found = digest_of(tmp_path / "big")
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert base64.b64decode(found.checksum) == hashlib.sha256(b"".join(parts)).digest()
    (tmp_path / "small").write_bytes(b"abc")
    assert base64.b64decode(digest_of(tmp_path / "small").checksum) == hashlib.sha256(b"abc").digest()
    (tmp_path / "none").write_bytes(b"")
    assert base64.b64decode(digest_of(tmp_path / "none").checksum) == hashlib.sha256(b"").digest()


def test_a_folder_is_sent_in_parts_once_and_a_damaged_file_again(
    service: Service, connection: Connection, folder: Path
) -> None:
    seen = sent(connection)
    assert upload(connection, BUCKET, folder, DIGEST) == f"s3://{BUCKET}/models/{DIGEST}/"
    assert seen.count("UploadPart") == 3 + 1 and seen[-1] == "PutObject"
    s3 = service.client("s3")
    keys = {each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"models/{DIGEST}/")["Contents"]}
    assert keys == {f"models/{DIGEST}/{name}" for name in ("model.safetensors", "edge.safetensors", "sub/config.json")}
    marker = json.loads(s3.get_object(Bucket=BUCKET, Key=f"models/{DIGEST}.json")["Body"].read())
    data = (folder / "model.safetensors").read_bytes()
    assert marker["model.safetensors"] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    seen.clear()
    upload(connection, BUCKET, folder, DIGEST)
    assert seen == ["PutObject"]  # the marker alone

    # Somebody's other bytes of the same size, under our own metadata: only the checksum tells.
    key = f"models/{DIGEST}/sub/config.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"[]", Metadata={"sha256": hashlib.sha256(b"{}").hexdigest()})
    seen.clear()
    upload(connection, BUCKET, folder, DIGEST)
    assert seen == ["PutObject", "PutObject"]
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"{}"


def test_parts_that_a_killed_upload_left_are_removed(service: Service, connection: Connection, folder: Path) -> None:
    s3 = service.client("s3")
    upload(connection, BUCKET, folder, DIGEST)
    left = {"Bucket": BUCKET, "Key": f"models/{DIGEST}/model.safetensors"}
    begun = s3.create_multipart_upload(**left)["UploadId"]
    s3.upload_part(**left, UploadId=begun, PartNumber=1, Body=b"half")
    other = s3.create_multipart_upload(Bucket=BUCKET, Key="models/other/model.safetensors")["UploadId"]
    upload(connection, BUCKET, folder, DIGEST)
    # moto dates every unfinished upload to 2010, so those of this prefix are old; others' are not looked at.
    assert [each["UploadId"] for each in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [other]


def test_bytes_that_change_on_the_way_are_noticed(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def corrupt(params: dict[str, Any], **_: Any) -> None:
        if params["url_path"].endswith("config.json"):
            params["body"] = b"[]"
            params["headers"]["x-amz-checksum-sha256"] = base64.b64encode(hashlib.sha256(b"[]").digest()).decode()

    connection.s3.meta.events.register("before-call.s3.PutObject", corrupt)
    with pytest.raises(ArtifactDamaged, match="other bytes") as damaged:
        upload(connection, BUCKET, tmp_path, "e" * 64)
    assert damaged.value.remedy


def test_an_empty_folder_is_refused(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(RefusedData, match="empty"):
        upload(connection, BUCKET, tmp_path, "f" * 64)
