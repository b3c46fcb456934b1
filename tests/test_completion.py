"""Completion in bash, zsh and fish as a person gets it: the printed script, installed, and Tab. No servers."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASKED = {
    "slimline rel": ["release"],
    "slimline release --mo": ["--mode"],
    "slimline run comp": ["compare", "compare-tiny", "compress-only"],
    "slimline release x --mode sh": ["shadow"],
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """``slimline`` is on the path, and no stack is up."""
    program = tmp_path / "slimline"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m deployments.cli "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(ROOT), "SLIMLINE_BASE_PORT": "1024", "HOME": str(tmp_path)}
    return os.environ | own


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash(environment: dict[str, str]) -> None:
    lines = "".join(
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; _slimline_completion slimline; "
        'echo "${COMPREPLY[*]}"\n'
        for line in ASKED
    )
    said = run(["bash", "--norc", "-c", f"set -e\nsource <(slimline completion bash)\n{lines}"], environment)
    found = [sorted(line.split()) for line in said.splitlines()]
    assert found == list(ASKED.values())


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(environment: dict[str, str]) -> None:
    lines = "".join(f"complete -C '{line}'; echo .\n" for line in ASKED)
    said = run(["fish", "--no-config", "-c", f"slimline completion fish | source\n{lines}"], environment)
    found = [[line.partition("\t")[0] for line in part.strip().splitlines()] for part in said.split("\n.\n")[:-1]]
    assert found == list(ASKED.values())


@contextmanager
def zsh(environment: dict[str, str], *setup: str) -> Iterator[Callable[[str, str], str]]:
    """An interactive shell. What is yielded types text and returns what was shown until ``until`` matched."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(environment["HOME"])
        os.execvpe("zsh", ["zsh", "-f", "-i"], environment | {"TERM": "dumb", "COLUMNS": "200"})

    def type_in(text: str, until: str) -> str:
        os.write(terminal, text.encode())
        shown, deadline = "", time.monotonic() + 30
        while not re.search(until, shown):
            assert time.monotonic() < deadline, f"{text!r} showed {shown!r}"
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536).decode("utf-8", "replace")
        return shown

    try:
        type_in("".join(f"{line}\n" for line in ("PS1='> '", *setup, "echo rea''dy")), until=r"ready\r\n")
        yield type_in
    finally:
        os.close(terminal)  # its end of a terminal ends it
        os.waitpid(child, 0)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_from_the_first_tab_on(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "zfunc"
    folder.mkdir()
    (folder / "_slimline").write_text(run(["slimline", "completion", "zsh"], environment))
    with zsh(environment, f"fpath=({folder} $fpath)", "autoload -Uz compinit", "compinit -u -D") as type_in:
        type_in("slimline rel\t", until="slimline release ")
        type_in("\x15slimline release --mo\t", until="--mode ")
        type_in("\x15slimline release x --mode sh\t", until="--mode shadow ")
        listed = type_in("\x15slimline run comp\t\t", until="compress-only +-- ")
        assert re.search("compare-tiny +-- The same search", listed)
        shown = type_in("\x15slimline \t\t", until="why +-- .*\r\n")
        assert "a stage's cache key" in shown


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_where_the_script_is_sourced(environment: dict[str, str]) -> None:
    setup = ("autoload -Uz compinit", "compinit -u -D", "source <(slimline completion zsh)")
    with zsh(environment, *setup) as type_in:
        type_in("slimline rel\t", until="slimline release ")


@pytest.mark.parametrize(("shell", "said"), [("zsh", "#compdef slimline"), ("fish", "complete --command slimline")])
def test_the_script_is_printed_where_its_shell_is_not_installed(
    shell: str, said: str, environment: dict[str, str]
) -> None:
    script = run(["slimline", "completion", shell], environment)
    assert said in script and "_SLIMLINE_COMPLETE" in script
    assert shell != "zsh" or ("compstate" in script and "rcquotes" in script), "Typer's script has changed"
