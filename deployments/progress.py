"""What a person sees while a run goes on: a line a stage that has ended, and below them a bar a stage at work."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text


class Ticker:
    """Bars on a terminal; elsewhere a line at every quarter of a stage. ``quiet``: only what a person must act on."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._moves = console.is_terminal and not quiet
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
            TimeElapsedColumn(), console=console, transient=True, disable=not self._moves,
        )  # fmt: skip
        self._whole = self._bars.add_task("waiting for the worker", total=None)
        self._stages: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def line(self, text: str | Text) -> None:
        if not self._quiet:
            self._console.print(text)

    def must_know(self, text: str) -> None:
        """Said in any case."""
        self._console.print(text)

    def at_work(self, what: str) -> None:
        """Beside the spinner, which turns for as long as the run does."""
        self._bars.update(self._whole, description=what)

    def progress(self, stage: str, share: float, text: str) -> None:
        """``share`` is 0–100; a stage at 100 loses its bar."""
        if self._moves:
            self._bar(stage, share, text)
        elif (quarter := int(share // 25)) > self._quarters.get(stage, 0):
            self._quarters[stage] = quarter
            self.line(f"    {text}")

    def _bar(self, stage: str, share: float, text: str) -> None:
        known = self._stages.get(stage)
        if share >= 100:
            if known is not None:
                self._bars.remove_task(self._stages.pop(stage))
        elif known is None:
            self._stages[stage] = self._bars.add_task(text, total=100, completed=int(share))
        else:
            self._bars.update(known, completed=share, description=text)
