"""Run a heavy stage's mathematics in a child process: its memory goes back when it ends, and the system's memory
killer takes it and not the flow.

A child that ran out of memory (killed, or told by the allocator) is started again with half the batch, at most
``MOST_RETRIES`` times, and goes on after the blocks that it had finished; that is said in the result. A training's
batch is part of its recipe: it is started again as it was. Every other failure is the child's own: a refusal stays the
refusal that it was.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tasks
from tasks import errors
from tasks.compression.child import TRAININGS
from tasks.compression.lean import VARIABLES
from tasks.errors import SlimlineError

if TYPE_CHECKING:
    import torch

    from tasks.compression.resuming import Partial

Item = TypeVar("Item")
_log = logging.getLogger(__name__)
MOST_RETRIES = 3


class _OutOfMemory(Exception):
    """The child was killed, or could not allocate."""


@dataclass
class StageChild:
    """One stage's child processes.

    Attributes:
        threads: of torch.
        peak_bytes: peak resident memory of the one that finished.
        notes: a sentence for each one that ran out of memory.
        started: told each child's process number.
    """

    threads: int
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    started: Callable[[int], None] = lambda pid: None

    def run(
        self,
        function: str,
        folders: Sequence[Path],
        tokens: torch.Tensor,
        arguments: dict[str, Any],
        partial: Partial,
        made: Callable[..., Item],
    ) -> Iterator[Item]:
        """What ``function(*folders, tokens, **arguments, partial=partial)`` of ``tasks.compression`` yields.

        Args:
            function: see ``tasks/compression/child.py``.
            folders: what comes before the tokens; the last one is written, and is empty or absent.
            tokens: int64 (blocks, block_tokens).
            arguments: JSON.
            partial: where finished parts wait; told what the child finds there.
            made: makes an item from the fields that the child tells.

        Raises:
            SlimlineError: what the child raised, in its own class; or it failed otherwise, with its last lines.
            MemoryError: memory ran out every time.
            OSError: as in the child.
        """
        yielded = 0
        for halvings in range(MOST_RETRIES + 1):
            job = {"function": function, "folders": [str(folder.absolute()) for folder in folders],
                   "arguments": arguments, "partial": str(partial.folder.absolute()), "threads": self.threads,
                   "halvings": halvings}  # fmt: skip
            try:
                # Those that an earlier child told already are told again as finished.
                for number, fields in enumerate(self._child(job, tokens, partial)):
                    if number >= yielded:
                        yield made(**fields)
                        yielded += 1
                return
            except _OutOfMemory as error:
                smaller = "" if function in TRAININGS else f" with 1/{2 << halvings} of the batch"
                self.notes.append(f"memory ran out ({error}){'' if halvings == MOST_RETRIES else f': again{smaller}'}")
                _empty(folders[-1])
        raise MemoryError("; ".join(self.notes))

    def _child(self, job: dict[str, Any], tokens: torch.Tensor, partial: Partial) -> Iterator[dict[str, Any]]:
        import numpy as np

        variables = {**VARIABLES, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-m"]
        with tempfile.TemporaryDirectory(prefix="child-", dir=partial.folder) as name:
            file, log = Path(name) / "tokens.npy", Path(name) / "log"
            np.save(file, tokens.numpy(), allow_pickle=False)
            with log.open("wb") as said:
                process = subprocess.Popen(
                    [*command, "tasks.compression.child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    encoding="utf-8",
                    cwd=Path(tasks.__path__[0]).parent,
                    start_new_session=True,
                )
            try:
                self.started(process.pid)
                yield from self._told(process, job | {"tokens": str(file.absolute())}, partial, log)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    _close(pipe)

    def _told(
        self, process: subprocess.Popen[str], job: dict[str, Any], partial: Partial, log: Path
    ) -> Iterator[dict[str, Any]]:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone already: its exit status says why
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line)
            if "item" in said:
                yield said["item"]
            elif "resumed" in said:
                partial.found(said["resumed"])
            elif "done" in said:
                self.peak_bytes = said["done"]
                return
            elif "memory" in said:
                raise _OutOfMemory(said["memory"].splitlines()[0])
            elif "refused" in said:
                raise getattr(errors, said["kind"], SlimlineError)(**said["refused"])
            elif said.get("errno"):
                raise OSError(said["errno"], said["text"])
            else:
                raise _failed(said["failed"])
        code = process.wait()
        if code == -signal.SIGKILL:
            raise _OutOfMemory("the process was killed, as the system does when memory runs out")
        raise _failed(log.read_text(errors="replace")[-8000:], f"exit status {code}")


def _failed(said: str, status: str = "") -> SlimlineError:
    """With the last line of what the process said; all of it, a traceback as a rule, is in the run's log."""
    _log.error("the stage's process said last:\n%s", said)
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
    return SlimlineError(
        "the stage's process failed",
        observed=f"{status}; {last}" if status else last,
        limit="an answer or a refusal",
        remedy="read its traceback in the run's log; run the stage again, it goes on after the finished blocks",
    )


def _empty(folder: Path) -> None:
    from tasks.compression.writing import discard

    if folder.exists():
        discard(folder, whole=False)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # the job was never read: the process is gone, which has been told
