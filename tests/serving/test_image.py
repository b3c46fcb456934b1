"""The inference image holds what the container imports, and nothing of the rest of the house."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SERVING = sorted((ROOT / "tasks/serving").glob("*.py"))
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE = ROOT / "docker/compose.yaml"
BIN = Path(sys.executable).parent


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, rest) with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_serving_package_imports_only_what_the_image_installs() -> None:
    installed = re.search(r"/python install [^\n]*\\\n\s+([^\n]+)", (ROOT / "docker/inference.Dockerfile").read_text())
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


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    command = [BIN / "hadolint", "--no-color", "--failure-threshold", "info", dockerfile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_built_in_two_stages_from_a_pinned_base_and_says_whether_it_is_well(dockerfile: Path) -> None:
    done = instructions(dockerfile)
    bases = [rest for word, rest in done if word == "FROM"]
    assert len(bases) == 2 and bases[0].endswith(" AS build") and "AS" not in bases[1]
    python = next(rest for word, rest in done if word == "ARG").removeprefix("PYTHON=")
    assert re.fullmatch(r"3\.11\.\d+-slim-bookworm", python) and all("${PYTHON}" in base for base in bases)
    last = done[[index for index, (word, _) in enumerate(done) if word == "FROM"][-1] :]
    words = [word for word, _ in last]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in ("RUN", "COPY"))
    assert "HEALTHCHECK" in words and "STOPSIGNAL" in words
    for word, rest in last:
        if word in ("CMD", "ENTRYPOINT"):
            assert rest.startswith("["), "a shell would not hand SIGTERM on"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_pip_installs_is_in_the_constraints(dockerfile: Path) -> None:
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    installs = [
        rest for word, rest in instructions(dockerfile) if word == "RUN" and "pip" in rest and " install " in rest
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert installs
    for line in installs:
        assert "--constraint" in line
        words = line.partition(" install ")[2].split()
        names = [word for word, before in zip(words, ["", *words], strict=False) if not word.startswith(("-", "/"))
                 and before not in ("--constraint", "--editable")]  # fmt: skip
        if extra := re.search(r'--editable "\.\[(\w+)\]"', line):
            names += project["dependencies"] + project["optional-dependencies"][extra.group(1)]
        assert names
        assert {Requirement(name).name.lower() for name in names} <= pinned


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_build_context_holds_what_is_copied_and_little_else(dockerfile: Path) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for word, rest in instructions(dockerfile) if word == "COPY" and "--from" not in rest
              for source in rest.split()[:-1]}  # fmt: skip
    assert {source.partition("/")[0] for source in copied} <= kept
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_compose_fits_the_schema_of_the_compose_specification() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_is_pinned_confined_and_says_whether_it_is_well() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "store", "prefect", "mlflow", "worker", "endpoints"}
    for name, service in services.items():
        assert re.search(r":\d+(\.\d+)+", service["image"]), f"{name}: {service['image']} is not pinned"
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        # The worker's is in its image.
        assert ("healthcheck" in service) == (name != "worker"), name
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"} and "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = (COMPOSE.parent / source).is_file() if source.startswith(".") else source in compose()["volumes"]
            assert there, volume


def test_compose_asks_for_its_secrets_and_holds_none() -> None:
    text = COMPOSE.read_text()
    names = set(re.findall(r"\$\{(\w+)", text))
    assert names == {"POSTGRES_PASSWORD", "STORE_SECRET"}
    for name in names:
        assert f"export {name}=" in text or f" {name}=$(" in text, "the header says how to set it"
        assert f"${{{name}:?" in text, "unset, it is an error and not an empty secret"


def test_what_compose_sets_and_starts_exists() -> None:
    import prefect.settings
    from mlflow.cli import cli

    services = compose()["services"]
    given = {name for service in services.values() for name in service.get("environment", {})}
    texts = [rest for path in DOCKERFILES for word, rest in instructions(path) if word == "ENV"]
    given |= set(re.findall(r"\b(PREFECT_\w+)=", " ".join(texts)))
    assert [name for name in given if name.startswith("PREFECT_") and not hasattr(prefect.settings, name)] == []
    options = {each for param in cli.commands["server"].params for each in param.opts}
    used = {part.partition("=")[0] for part in services["mlflow"]["command"] if part.startswith("--")}
    assert used <= options


def test_docker_holds_no_python_and_publishes_on_loopback_only() -> None:
    assert not list((ROOT / "docker").rglob("*.py"))
    services = compose()["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
