"""Engine environments: compression libraries whose pins cannot live with ours, each in an environment of its own.

An engine (``engine_kinds.py``) is a few packages, a file with the version of everything below them
(``engine_scripts/<name>.txt``), and a script that the environment's own Python runs as a child process: it reads a
model folder, token blocks and a recipe, and writes a model folder (``engine_runs.py``). The environment is built when
it is first asked for. Its folder is named by the digest of what it is made from, a marker is written into it last, and
without the marker it counts as absent: what a killed build left is removed and built again.

The versions are those of one installation that worked, without local parts such as ``+cpu``, so that the machine's own
configuration of pip decides which build of torch comes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import sys
import tempfile
import venv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.adapters.children import run_child
from tasks.adapters.engine_kinds import Engine
from tasks.errors import EngineNotBuilt, EngineUnreachable, SlimlineError

MARKER = "slimline-engine.json"
BUILD_SECONDS = 3600
_KEY_LENGTH = 16
# What pip says when a server or the way to it failed; a version that does not exist fails the same way every time.
_LOST = re.compile(r"timed? ?out|connection|retry|temporar|50[0-9] (server|gateway|service)", re.IGNORECASE)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")


@dataclass(frozen=True)
class Environment:
    """A complete engine environment. ``key`` names everything it was made from."""

    engine: Engine
    folder: Path
    key: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        """What its processes find in their environment beside what they inherit."""
        return {name: value.format(folder=self.folder) for name, value in self.engine.variables.items()}


def read_constraints(path: Path) -> dict[str, str]:
    """Package to version, of a file with one ``name==version`` a line and no other options.

    Raises:
        SlimlineError: a line is anything else, or names a package twice.
    """
    pins: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = _PIN.fullmatch(line.strip())
        name = re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""
        if found is None or name in pins:
            raise SlimlineError(
                f"line {number} of {path.name} is not a pin",
                observed=line,
                limit="name==version, each package once",
                remedy="write the file again from what pip installed",
            )
        pins[name] = found[2]
    return pins


def environment_key(engine: Engine) -> str:
    """Hex digest of what an environment is made from: packages, versions, Python version and kind of machine."""
    made_from = {
        "packages": engine.packages,
        "constraints": read_constraints(engine.constraints),
        "python": platform.python_version(),
        "machine": (platform.system(), platform.machine()),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def find_environment(engine: Engine, home: Path) -> Environment | None:
    """The complete environment of ``engine`` below ``home``, or none. Reads one small file."""
    found = _at(engine, home)
    try:
        marker = json.loads((found.folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if marker == {"key": found.key} and found.python.exists() else None


def environment_bytes(environment: Environment) -> int:
    """Bytes of an environment's files."""
    return sum(path.lstat().st_size for path in environment.folder.rglob("*") if not path.is_dir())


def build_environment(engine: Engine, home: Path, tick: Callable[[int], None] | None = None) -> Environment:
    """The complete environment of ``engine`` below ``home``; built now if it is not there. Minutes, and gigabytes.

    Several processes may ask at once: one builds and the others wait. A build that fails leaves nothing.

    Args:
        engine: which.
        home: folder of all environments.
        tick: told about every second how many packages are installed; all are downloaded before the first.

    Raises:
        EngineNotBuilt: pip could not install the pinned packages.
        SlimlineError: they do not run, or another process has been building for longer than ``BUILD_SECONDS``.
    """
    wanted = _at(engine, home)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / f"{wanted.folder.name}.lock")
    try:
        with lock.acquire(timeout=BUILD_SECONDS):
            found = find_environment(engine, home)
            if found is None:
                _build(wanted, tick)
            return wanted
    except Timeout as error:
        raise SlimlineError(
            f"the environment of {engine.name} is still being built by another process",
            observed=f"{BUILD_SECONDS} s",
            limit=f"{BUILD_SECONDS} s",
            remedy="look at that process, end it if it hangs, and run again",
        ) from error


def _at(engine: Engine, home: Path) -> Environment:
    key = environment_key(engine)
    # Absolute: a child process has a working directory of its own.
    return Environment(engine, home.absolute() / f"{engine.name}-{key[:_KEY_LENGTH]}", key)


def _build(wanted: Environment, tick: Callable[[int], None] | None) -> None:
    # In its final place: an environment's own scripts hold its path, so it cannot be renamed. The marker comes last.
    shutil.rmtree(wanted.folder, ignore_errors=True)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, wanted.folder, ignore_errors=True)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(wanted.folder)
        _install(wanted, tick)
        part = wanted.folder / f"{MARKER}.part"
        part.write_text(json.dumps({"key": wanted.key}), encoding="utf-8")
        part.replace(wanted.folder / MARKER)
        undo.pop_all()  # it is whole, and stays


def _install(wanted: Environment, tick: Callable[[int], None] | None) -> None:
    """Install the pinned packages with this process's own pip, and run them once, which also compiles them."""
    engine = wanted.engine
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        wanted.python,
        "install",
        "--no-input",
        "--no-compile",
        "--quiet",
    ]
    pip += ["--disable-pip-version-check", "--constraint", engine.constraints.absolute(), *engine.packages]
    with tempfile.TemporaryDirectory(prefix="slimline-engine-") as scratch:
        log = Path(scratch) / "log"
        if engine.packages:
            _run_pip(pip, wanted, log, tick)
        run_child(
            [wanted.python, "-I", "-c", engine.check],
            what=f"the first run of {engine.name}",
            log=log,
            cwd=Path(scratch),
            variables=wanted.variables,
            limit_s=BUILD_SECONDS,
        )


def _run_pip(command: list[str | Path], wanted: Environment, log: Path, tick: Callable[[int], None] | None) -> None:
    def count(_: Path) -> None:
        if tick is not None:
            tick(len(list(wanted.folder.glob("lib/python*/site-packages/*.dist-info"))))

    what = f"installing {wanted.engine.name}"
    try:
        run_child(command, what=what, log=log, limit_s=BUILD_SECONDS, tick=count)
    except SlimlineError as error:
        lost = _LOST.search(str(error.observed))
        raise (EngineUnreachable if lost else EngineNotBuilt)(
            f"the environment of {wanted.engine.name} could not be built",
            observed=error.observed,
            limit=f"the versions of {wanted.engine.constraints.name}",
            remedy="see that pip reaches a registry that has these versions, and run again",
        ) from error
