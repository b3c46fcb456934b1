"""Run one child process to its end, and say what it took.

Wall and CPU time and peak resident memory are of the child alone. On Linux the peak is the kernel's own high-water mark
(``VmHWM`` of ``/proc/<pid>/status``, proc(5)), read at least every ``_POLL_S`` seconds: ``ru_maxrss`` of wait4(2)
begins at the *parent's* resident memory there, because it outlives exec.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SlimlineError

_POLL_S = 0.05
_TICK_S = 1.0
_SHOWN_LINES, _SHOWN_BYTES = 12, 1 << 14
_PROGRESS = re.compile(r"\d+%\|")  # a bar of tqdm


@dataclass(frozen=True)
class Ran:
    """What a child process took: seconds from start to end, seconds of processor time with its own children's, bytes of
    resident memory at its peak.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run_child(
    command: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    limit_s: float = 6 * 3600,
    tick: Callable[[Path], None] | None = None,
) -> Ran:
    """Run ``command`` and wait for it. It is ended, with its own children, when this is interrupted or takes too long;
    on Linux with util-linux also when this process is killed.

    Args:
        command: program and arguments.
        what: names it in an error.
        log: file that takes its standard error; standard output is dropped.
        cwd: its working directory; this process's when left out.
        variables: set in its environment beside the inherited ones, by the env utility of POSIX.
        limit_s: seconds that it may take.
        tick: called with the log about every second while it runs; the child is ended when this raises.

    Raises:
        SlimlineError: it failed, with the last lines of its standard error, or it took longer than ``limit_s``.
    """
    settings = [f"{name}={value}" for name, value in (variables or {}).items()]
    full = [*guard(), *(["env", *settings] if settings else []), *map(str, command)]
    began = time.perf_counter()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            full,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        ran = _wait(process, began, limit_s, tick and (lambda: tick(log)))
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if ran is None:
        raise SlimlineError(
            f"{what} did not finish",
            observed=f"{limit_s:,.0f} s; it said last: {last_lines(log)}",
            limit=f"{limit_s:,.0f} s",
            remedy="give it less to do (fewer or shorter blocks), or more time",
        )
    if process.returncode:
        raise SlimlineError(
            f"{what} failed",
            observed=f"{_status(process.returncode)}; it said last: {last_lines(log)}",
            limit="exit status 0",
            remedy="read its last lines; exit by SIGKILL usually means that memory ran out",
        )
    return ran


def guard() -> list[str]:
    """What a command begins with, so that it ends when this process is killed; nothing where the system cannot."""
    return ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" and shutil.which("setpriv") else []


def tail(log: Path) -> str:
    """The end of a log, progress bars with it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SHOWN_BYTES))
        return file.read().decode("utf-8", errors="replace")


def last_lines(log: Path, lines: int = _SHOWN_LINES) -> str:
    """The last lines that say something, progress bars left out; empty when there are none."""
    said = [line.rstrip() for line in re.split(r"[\r\n]+", tail(log))]
    return "\n".join([line for line in said if line and not _PROGRESS.search(line)][-lines:])


def _wait(
    process: subprocess.Popen[bytes], began: float, limit_s: float, tick: Callable[[], None] | None
) -> Ran | None:
    """Reap the process and measure it; none when its time is over and it still runs."""
    peak, ticked = 0, began
    while time.perf_counter() - began < limit_s:
        peak = max(peak, high_water(process.pid))
        reaped, status, usage = os.wait4(process.pid, os.WNOHANG)
        if reaped:
            process.returncode = os.waitstatus_to_exitcode(status)
            # Bytes on macOS; on Linux only where a child ended before it could be looked at.
            peak = peak or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            return Ran(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak)
        if tick is not None and time.perf_counter() - ticked > _TICK_S:
            tick()
            ticked = time.perf_counter()
        # Often at the beginning: a short life must be seen too.
        time.sleep(min(_POLL_S, 1e-3 + (time.perf_counter() - began) / 20))
    return None


def high_water(pid: int) -> int:
    """Peak resident bytes of a running process, or 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _status(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
