"""The end of a run, for a terminal: scorecard, gate, version, rollout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.contracts import GateCheck, Outcome, Rollout, Scorecard
from tasks.reader_contracts import ReaderOutcome, ReaderScorecard
from tasks.reporting import megabytes, release_markdown, rollout_rows


def print_outcome(outcome: Outcome | ReaderOutcome, console: Console) -> None:
    """Everything that a person who started the run wants to know."""
    if isinstance(outcome, ReaderOutcome):
        _print_reader(outcome.scorecard, console)
    else:
        _print_scorecard(outcome.scorecard, console)
    registered = outcome.registered
    console.print(
        f"Registered  {registered.name} version {registered.version}, alias {registered.alias}  {registered.url}"
    )
    if isinstance(outcome, Outcome) and outcome.rollout is not None:
        _print_rollout(outcome.rollout, console)


def _print_scorecard(scorecard: Scorecard, console: Console) -> None:
    was, now = scorecard.baseline, scorecard.candidate
    table = Table("", "original", "compressed", "ratio", title="Scorecard")
    table.add_row(
        "bytes on disk, every file", megabytes(was.bytes), megabytes(now.bytes), f"{now.bytes / was.bytes:.3f}"
    )
    table.add_row(
        "perplexity", f"{was.perplexity:.2f}", f"{now.perplexity:.2f}", f"{now.perplexity / was.perplexity:.3f}"
    )
    table.add_row("same next token", "100.0 %", f"{now.agreement:.1%}", "")
    table.add_row("KL from the original, nats", "0", f"{now.kl:.4f}", "")
    table.add_row("time to first token", f"{was.first_token_ms:.0f} ms", f"{now.first_token_ms:.0f} ms", "")
    table.add_row("time per following token", f"{was.per_token_ms:.0f} ms", f"{now.per_token_ms:.0f} ms", "")
    console.print(table)
    _print_checks(scorecard.checks, console)


def _print_reader(scorecard: ReaderScorecard, console: Console) -> None:
    table = Table("", "teacher", "student", title="Scorecard")
    for row in scorecard.rows():
        table.add_row(*row)
    console.print(table)
    _print_checks(scorecard.checks, console)


def _print_checks(checks: tuple[GateCheck, ...], console: Console) -> None:
    for check in checks:
        verdict = ("passed", "green") if check.passed else ("failed", "red")
        console.print(
            Text.assemble(f"Gate        {check.metric} {check.observed:.3f}, {check.sense} {check.limit:g}: ", verdict)
        )


def _print_rollout(rollout: Rollout, console: Console) -> None:
    rows = rollout_rows(rollout)
    if rows:
        table = Table(*rows[0].keys(), title=f"Rollout on {rollout.endpoint}")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    for line in release_markdown(rollout).splitlines()[1:]:
        if line:
            console.print(line)
