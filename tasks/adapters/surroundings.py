"""What a run's figures depend on beside its inputs: the code, the packages, the processor.

``difference`` says in words what two runs do not have in common; ``reproduce`` asks it when figures differ.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tasks.adapters.processor import processor_name

_ROOT = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 10
# What computes: a difference in any other package moves no figure.
NUMERICAL = (
    "torch", "transformers", "compressed-tensors", "numpy", "scipy", "numba", "safetensors", "tokenizers", "onnx",
    "onnxruntime",
)  # fmt: skip


@dataclass(frozen=True)
class Surroundings:
    """``commit`` is empty outside a git checkout, such as in an image; ``source`` is a digest of the program's own
    files and always there. ``device`` is what ``tasks.caching`` calls it: cpu-AVX2, cuda-sm90.
    """

    commit: str
    dirty: bool
    source: str
    python: str
    system: str
    cpu: str
    cores: int
    threads: int
    device: str
    packages: dict[str, str]

    @property
    def packages_digest(self) -> str:
        return hashlib.sha256(self.requirements.encode()).hexdigest()

    @property
    def requirements(self) -> str:
        """Every installed package, as ``pip freeze`` has them."""
        return "".join(f"{name}=={version}\n" for name, version in sorted(self.packages.items()))

    def tags(self) -> dict[str, str]:
        """For a run in MLflow. ``mlflow.source.git.commit`` is what its page shows as the version."""
        numerical = {f"slimline.package.{name}": self.packages[name] for name in NUMERICAL if name in self.packages}
        found = numerical | {
            "slimline.source_digest": self.source,
            "slimline.python": self.python,
            "slimline.system": self.system,
            "slimline.cpu": f"{self.cpu}, {self.cores} cores, {self.threads} threads",
            "slimline.device": self.device,
            "slimline.packages_digest": self.packages_digest,
        }
        if self.commit:
            found |= {"mlflow.source.git.commit": self.commit, "slimline.git_dirty": str(self.dirty).lower()}
        return found

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Surroundings:
        return cls(**json.loads(text))


def look_around(device: str, threads: int) -> Surroundings:
    """Of this process, now."""
    commit = _git("rev-parse", "HEAD")
    return Surroundings(
        commit=commit,
        dirty=bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        source=source_digest(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=processor_name(),
        cores=psutil.cpu_count() or 1,
        threads=threads,
        device=device,
        packages=_packages(),
    )


def _packages() -> dict[str, str]:
    """Version of every installed package by its normalized name, from the names of their ``.dist-info`` folders
    (packaging.python.org, recording installed projects): opening each one's METADATA takes twenty times as long.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        for each in Path(folder or ".").glob("*.dist-info"):
            name, _, version = each.stem.partition("-")
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)  # what is imported comes first
    return found


def difference(was: Surroundings, now: Surroundings) -> list[str]:
    """What can move a figure and is not the same, one line each."""
    found = [
        f"{what}: {before} → {after}"
        for what, before, after in (
            ("code", f"{was.commit[:12]} {was.source[:12]}".strip(), f"{now.commit[:12]} {now.source[:12]}".strip()),
            ("python", was.python, now.python),
            ("system", was.system, now.system),
            ("processor", was.cpu, now.cpu),
            ("device", was.device, now.device),
            ("threads", was.threads, now.threads),
        )
        if before != after and not (what == "code" and was.source == now.source)
    ]
    return found + [
        f"{name}: {was.packages.get(name, 'absent')} → {now.packages.get(name, 'absent')}"
        for name in NUMERICAL
        if was.packages.get(name) != now.packages.get(name)
    ]


def source_digest() -> str:
    """Hex SHA-256 over the program's own Python files: names and bytes."""
    digest = hashlib.sha256()
    for folder in ("flows", "tasks"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    """What git prints, or nothing where this is no checkout or there is no git."""
    if not (_ROOT / ".git").exists():  # else it would find one above: of the project that installed this one
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
