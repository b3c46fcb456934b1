"""The inference image holds what the container imports, and nothing of the rest of the house."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVING = sorted((ROOT / "tasks/serving").glob("*.py"))
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_serving_package_imports_only_what_the_image_installs() -> None:
    installed = re.search(r"pip install [^\n]*\\\n\s+([^\n]+)", (ROOT / "docker/inference.Dockerfile").read_text())
    assert installed
    packages = {name.replace("-", "_") for name in installed.group(1).split()}
    needed = {name for path in [*SERVING, ROOT / "tasks/gptq_codes.py"] for name in imports(path)}
    copied = {f"tasks.serving.{path.stem}" for path in SERVING} | {"tasks.gptq_codes"}
    assert "COPY tasks/gptq_codes.py " in (ROOT / "docker/inference.Dockerfile").read_text()
    assert {name for name in needed if name.startswith("tasks")} <= copied
    assert {name.partition(".")[0] for name in needed} - {"tasks"} <= packages


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_the_image_does_not_run_as_root(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert copied
    for source in (name for line in copied for name in line):
        assert (ROOT / source).exists(), source
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"
    assert "constraints.txt" in text


def test_docker_holds_no_python_and_publishes_on_loopback_only() -> None:
    assert not list((ROOT / "docker").rglob("*.py"))
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
