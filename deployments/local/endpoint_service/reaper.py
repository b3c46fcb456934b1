"""No child outlives the service, not even after ``kill -9``.

Two nets. On Linux a child is started through this module's ``exec`` form, which asks the kernel for SIGKILL when the
service dies. And a watchdog process holds a pipe from the service; when the pipe closes it ends every process group
that was registered, which also covers what a child started itself, and other systems.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # the folder that holds deployments/ and tasks/
_PR_SET_PDEATHSIG = 1
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL once the service is gone


def wrapped(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, started so that it dies with this process. Start it in a session of its own."""
    return (sys.executable, "-m", __name__, "exec", str(os.getpid()), *command)


def environment() -> dict[str, str]:
    """The environment of a child: what a program needs to start, nothing of the service's own credentials."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "VIRTUAL_ENV", "SYSTEMROOT", "LD_LIBRARY_PATH")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return found | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


class Reaper:
    """The watchdog. ``watch`` and ``forget`` tell it which process groups are ours."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, "watch"],
            stdin=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            start_new_session=True,  # a signal to the service's group must not end its watchdog
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """The service ends in good order: nothing is left to reap."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(timeout=10)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the watchdog is gone: the kernel's net is left
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def _exec(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the service died before the kernel was asked
            raise SystemExit(1)
    os.execvp(command[0], command)


def _watch() -> None:
    for quiet in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(quiet, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for sign in (signal.SIGTERM, signal.SIGKILL) if groups else ():
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, sign)
        if sign == signal.SIGTERM:
            time.sleep(_GRACE)


if __name__ == "__main__":
    if sys.argv[1] == "exec":
        _exec(int(sys.argv[2]), sys.argv[3:])
    else:
        _watch()
