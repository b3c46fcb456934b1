"""The end of a run, for a terminal: scorecard, gate, version, rollout."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.follow import Result
from tasks.batch import batch_markdown
from tasks.batch_plan import BatchResult
from tasks.contracts import GateCheck, Outcome, Rollout, Scorecard, Settled
from tasks.figures import HEAD, cost_notes, figures
from tasks.findings import FINDINGS_HEAD, finding_rows
from tasks.monitoring_contracts import Observed
from tasks.observe_report import OBSERVED_HEAD, observed_markdown, observed_rows
from tasks.reader_contracts import ReaderOutcome, ReaderScorecard
from tasks.reporting import release_markdown, restore_markdown, rollout_rows
from tasks.reproduction import Reproduction
from tasks.reproduction_text import rows, trained_again
from tasks.require import said
from tasks.retraining import Retrained, Skipped, skipped_markdown, trained_lines
from tasks.search_contracts import Comparison
from tasks.search_text import reasons
from tasks.search_text import rows as search_rows
from tasks.search_text import summary as search_summary


def print_outcome(outcome: Result, console: Console) -> None:
    """Everything that a person who started the run wants to know."""
    if isinstance(outcome, Comparison):
        _print_comparison(outcome, console)
        return
    if isinstance(outcome, Observed):
        print_observed(outcome, console)
        return
    if isinstance(outcome, BatchResult):
        _print_lines(batch_markdown(outcome).removeprefix("# "), console)
        return
    if isinstance(outcome, Settled):
        _print_lines(restore_markdown(outcome).removeprefix("# "), console)
        return
    if isinstance(outcome, Reproduction):
        _print_reproduction(outcome, console)
        return
    if isinstance(outcome, Rollout):
        _print_rollout(outcome, console)
        return
    if isinstance(outcome, Skipped):
        _print_lines(skipped_markdown(outcome).removeprefix("# "), console)
        return
    if isinstance(outcome, Retrained):
        for line in trained_lines(outcome):
            console.print(line)
        outcome = outcome.outcome
    if isinstance(outcome, ReaderOutcome):
        _print_reader(outcome.scorecard, console)
    else:
        _print_scorecard(outcome.scorecard, console)
        if outcome.exported is not None and outcome.exported.model is None:
            console.print(f"Not exported  {outcome.exported.reason}")
    registered = outcome.registered
    console.print(
        f"Registered  {registered.name} version {registered.version}, alias {registered.alias}  {registered.url}"
    )
    if isinstance(outcome, Outcome) and outcome.rollout is not None:
        _print_rollout(outcome.rollout, console)


def code_name(outcome: Result) -> str:
    """How a run that completed ends the command, by the name of its exit code: an observation and a search complete
    with an answer that may be no.
    """
    if isinstance(outcome, Observed):
        return {"healthy": "DONE", "degraded": "NO", "no data": "NO_VERDICT"}[outcome.state]
    if isinstance(outcome, Comparison):
        return "DONE" if outcome.chosen is not None else "NO"
    if isinstance(outcome, Retrained):
        outcome = outcome.outcome
    rollout = outcome.rollout if isinstance(outcome, Outcome) else outcome
    return "NO" if isinstance(rollout, Rollout) and rollout.phase == "restored" else "DONE"


def _print_reproduction(found: Reproduction, console: Console) -> None:
    table = Table("figure", "recorded", "re-runs, mean", "band", "", title=f"{found.name} {found.version}")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    console.print(f"Verdict     {found.verdict}")
    if trained := trained_again(found):
        console.print(f"Trained     {trained}", soft_wrap=True)
    for line in found.changed:
        console.print(f"Changed     {line}")


def _print_scorecard(scorecard: Scorecard, console: Console) -> None:
    table = Table(*HEAD, title="Scorecard")
    for figure in figures(scorecard):
        table.add_row(*figure.cells)
    console.print(table)
    for note in cost_notes(scorecard.costs):
        console.print(note, style="dim")
    _print_checks(scorecard.checks, console)


def _print_reader(scorecard: ReaderScorecard, console: Console) -> None:
    table = Table("", "teacher", "student", title="Scorecard")
    for row in scorecard.rows():
        table.add_row(*row)
    console.print(table)
    _print_checks(scorecard.checks, console)


def _print_checks(checks: tuple[GateCheck, ...], console: Console) -> None:
    for check in checks:
        verdict = (check.said, "green" if check.passed else "red")
        console.print(
            Text.assemble(f"Gate        {check.metric} {said(check)}, {check.sense} {check.limit:g}: ", verdict)
        )


def _print_lines(markdown: str, console: Console) -> None:
    """Without tables: those are drawn."""
    for line in markdown.splitlines():
        if line and not line.startswith("|"):
            console.print(line)


def _print_comparison(comparison: Comparison, console: Console) -> None:
    # Eighty columns are enough: the reasons stand below.
    shown = {"recipe": "recipe", "bytes ratio": "bytes", "perplexity ratio": "perplexity", "agreement": "agreement"}
    table = Table(*shown.values(), "front", "outcome", title="Recipes, the smallest first; ratios to the original")
    table.columns[0].no_wrap = True  # the name is what a person looks for
    for row in search_rows(comparison):
        table.add_row(*(str(row[name]) for name in shown), str(row["front"]), str(row["outcome"]))
    console.print(table)
    for what, why in reasons(comparison):
        console.print(f"{what.capitalize():<11} {why}", style="dim", soft_wrap=True)
    console.print(f"Search      {search_summary(comparison)}")
    console.print(f"Choice      {comparison.reason}")
    console.print(f"MLflow      {comparison.tracked.url}")


def print_observed(found: Observed, console: Console) -> None:
    """The verdict, what it rests on, and the comparisons."""
    _print_lines(observed_markdown(found).removeprefix("# "), console)
    if found.findings:
        table = Table(*OBSERVED_HEAD)
        for row in observed_rows(found):
            table.add_row(*row)
        console.print(table)


def _print_rollout(rollout: Rollout, console: Console) -> None:
    # Too wide for a terminal; what the judge found stands in a table of its own.
    rows = [{name: value for name, value in row.items() if name != "judge"} for row in rollout_rows(rollout)]
    if rows:
        table = Table(*rows[0].keys(), title=f"Rollout on {rollout.endpoint}")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    _print_lines(release_markdown(rollout).partition("\n")[2], console)
    judged = next((seen.findings for seen in reversed(rollout.observations) if seen.findings), ())
    if judged:
        table = Table(*FINDINGS_HEAD, title="The judge, at the last look")
        for cells in finding_rows(judged):
            table.add_row(*cells)
        console.print(table)
