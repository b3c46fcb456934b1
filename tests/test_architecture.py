"""The house rules that a linter cannot hold."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for package in ("compression", "adapters", "serving")
    for path in (ROOT / "tasks" / package).glob("*.py")
    if path.name != "__init__.py"
)
SOURCES = [path for folder in ("tasks", "flows", "deployments", "benchmarks") for path in (ROOT / folder).rglob("*.py")]

BLOCKED_IMPORT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prefect":
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_pure_packages_import_without_prefect() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED_IMPORT, *PURE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_settings_reads_the_environment() -> None:
    allowed = {"tasks/settings.py", "tasks/serving/container.py", "deployments/cli.py"}
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if path.is_relative_to(ROOT / "tasks") or path.is_relative_to(ROOT / "flows")
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text())
    }
    assert readers <= allowed


@pytest.mark.parametrize("stem", sorted(path.stem for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"))
def test_flow_files_hide_no_importable_module(stem: str) -> None:
    # Prefect's loader puts flows/ first on the path and loads each file under its bare stem.
    assert stem not in sys.stdlib_module_names
    spec = importlib.util.find_spec(stem)
    assert spec is None or Path(str(spec.origin)).is_relative_to(ROOT / "flows")


def test_docker_holds_no_python() -> None:
    assert not list((ROOT / "docker").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled_and_no_remote_code_runs(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "cloudpickle", "joblib", "dill"} & {name.split(".")[0] for name in names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            pytest.fail(f"{path}: torch.load unpickles")
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def test_no_registry_and_no_path_of_a_machine_is_named() -> None:
    pattern = re.compile(r"index-url|find-links|://[^ ]*/simple\b|/root/|/home/[a-z]")
    files = [*SOURCES, ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / "Makefile", ROOT / "README.md"]
    assert [path.name for path in files if pattern.search(path.read_text())] == []


def test_constraints_are_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.!+]+", line), line


def test_tests_that_share_servers_stay_in_one_process(request: pytest.FixtureRequest) -> None:
    """xdist wrote the groups where pytest 9.2 does not look, said nothing, and both processes started every server."""
    shared = getattr(request.config.option, "loadgroup", False)
    assert not shared or request.node.nodeid.endswith("@test_architecture.py")
