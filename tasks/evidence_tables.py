"""The evidence behind a scorecard as tables, wherever it is shown: gate, slices, answers, load, tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.contracts import GateCheck, Scorecard
from tasks.evidence_contracts import (
    SLICE_CONFIDENCE,
    Evidence,
    Generation,
    LoadFigure,
    SliceScore,
    TaskScore,
    TrainingGain,
)

BY_LABEL = "By label of the documents, the worst first"
SLICES_NOTE = (
    f"Each end is that of a one-sided interval at {SLICE_CONFIDENCE:.0%}, paired over the blocks. No limit applies to "
    "a slice, and of twenty ends one lies on the wrong side by chance."
)


@dataclass(frozen=True)
class Table:
    """Cells as people read them; every row as long as ``head``. ``notes``: sentences, too long for a cell."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> list[str]:
        line = "|".join("---" for _ in self.head)
        return [
            f"## {self.title}",
            "",
            "| " + " | ".join(self.head) + " |",
            f"|{line}|",
            *("| " + " | ".join(row) + " |" for row in self.rows),
            *(["", *(f"- {note}" for note in self.notes)] if self.notes else []),
        ]


def fenced(text: str) -> list[str]:
    """Lines of Markdown that show a text as it is, whatever it holds: the fence is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence + "text", text, fence]


CHECK_HEAD = ("check", "observed", "surely", "limit", "verdict", "items", "needed")


def check_cells(check: GateCheck) -> tuple[str, ...]:
    """One row of the gate. *surely*: the interval's end that was held against the limit; *needed*: items with which a
    candidate that is truly as observed passes eight times in ten.
    """
    return (
        check.metric,
        f"{check.observed:.4g}",
        "–" if check.bound is None else f"{check.bound:.4g}",
        f"{check.sense} {check.limit:.4g}",
        check.said,
        str(check.items or "–"),
        "–" if check.needed_items is None else str(check.needed_items),
    )


def _note(check: GateCheck) -> str:
    """Of a check that did not pass: what to do, and whether its items show that it is outside the limit."""
    note = f"{check.metric}, {check.said}: {check.remedy}"
    if check.said == "failed" and check.worse_p is not None and check.confidence is not None:
        shown = check.worse_p < 1 - check.confidence
        how = "shown" if shown else "not shown, it may be these items"
        note += f" (outside the limit: {how}, p {check.worse_p:.2g})"
    return note


def gate_table(checks: Sequence[GateCheck]) -> Table:
    sure = next((check.confidence for check in checks if check.confidence), None)
    title = "Gate" if sure is None else f"Gate, every interval one-sided at {sure:.1%}"
    notes = tuple(_note(check) for check in checks if not check.passed)
    return Table(title, CHECK_HEAD, tuple(check_cells(check) for check in checks), notes)


def evidence_tables(scorecard: Scorecard) -> list[Table]:
    """Those for which something was measured."""
    evidence, training = scorecard.evidence, scorecard.training
    tables = [training_table(training)] if training is not None and training.rows else []
    if evidence is None:
        return tables
    tables += _slices(evidence.slices)
    if evidence.generation is not None:
        tables.append(_generation(evidence.generation))
    if evidence.load:
        tables.append(_load(evidence.load))
    if evidence.tasks:
        tables.append(_tasks(evidence.tasks))
    return tables


_ROLES = {"start": "before training", "trained": "trained", "served": "compressed, as served", "champion": "champion"}


def training_table(training: TrainingGain) -> Table:
    rows = [
        (
            f"{_ROLES[each.role]}: {each.name}",
            f"{each.perplexity:.2f}",
            *(("", "") if each.role == "start" else (f"{each.ratio:.3f}", _ends(each.ratio_lower, each.ratio_upper))),
            f"{each.accuracy:.1%}",
            *(("", "") if each.role == "start" else (f"{each.rise:+.3f}", _ends(each.rise_lower, each.rise_upper))),
        )
        for each in training.rows
    ]
    head = ("", "perplexity", "÷ before", "surely within", "true next token", "more than before", "surely within")
    return Table(f"What training changed, each end one-sided at {training.confidence:.1%}", head, tuple(rows))


def _ends(lower: float | None, upper: float | None) -> str:
    return "–" if lower is None or upper is None else f"{lower:.3f} – {upper:.3f}"


def _slices(slices: Sequence[SliceScore]) -> list[Table]:
    """By place and length in the text, and by label, where there are any, the worst first."""
    of_text = [each for each in slices if each.by == "text"]
    of_labels = sorted((each for each in slices if each.by == "label"), key=lambda each: -each.ratio)
    titled = (("Slices of the held-out text", "positions in", of_text), (BY_LABEL, "label", of_labels))
    return [_slice_table(title, what, chosen) for title, what, chosen in titled if chosen]


def _slice_table(title: str, what: str, slices: Sequence[SliceScore]) -> Table:
    rows = [
        (
            each.name,
            f"{each.positions:,}",
            str(each.blocks or "–"),
            f"{each.baseline_perplexity:.2f}",
            f"{each.candidate_perplexity:.2f}",
            f"{each.ratio:.3f}",
            _ends(each.ratio_lower, each.ratio_upper),
            f"{each.agreement:.1%}",
        )
        for each in slices
    ]
    head = (
        what, "positions", "blocks", "perplexity, original", "compressed", "ratio", "surely within", "same next token",
    )  # fmt: skip
    return Table(title, head, tuple(rows), (SLICES_NOTE,))


def _generation(found: Generation) -> Table:
    was, now = found.baseline, found.candidate
    return Table(
        f"Answers to {found.prompts} held-out prompts, at most {found.new_tokens} tokens each: "
        f"{found.same:.0%} the same, {found.same_start:.0%} of the tokens up to the first difference",
        ("", "original", "compressed"),
        (
            ("empty", f"{was.empty:.0%}", f"{now.empty:.0%}"),
            ("end in a loop", f"{was.loops:.0%}", f"{now.loops:.0%}"),
            ("different pairs of tokens", f"{was.distinct:.1%}", f"{now.distinct:.1%}"),
            ("mean length, tokens", f"{was.tokens:.1f}", f"{now.tokens:.1f}"),
        ),
    )


def _load(levels: Sequence[LoadFigure]) -> Table:
    rows = [
        (
            str(each.concurrency),
            each.side,
            f"{each.first_token_p50_ms:.0f} / {each.first_token_p90_ms:.0f}",
            f"{each.per_token_p50_ms:.1f} / {each.per_token_p90_ms:.1f}",
            f"{each.tokens_per_second:.1f}",
            f"{each.peak_bytes / 1e6:,.0f} MB",
            f"{each.requests}" + (f", {each.failed} failed" if each.failed else ""),
        )
        for each in levels
    ]
    head = ("at a time", "", "first token, ms p50 / p90", "next token, ms p50 / p90", "tokens/s", "memory", "requests")
    return Table("Served on this machine", head, tuple(rows))


def _tasks(tasks: Sequence[TaskScore]) -> Table:
    rows = [
        (
            f"{each.task}, {each.metric}",
            str(each.items),
            f"{each.baseline:.3f}",
            f"{each.candidate:.3f}",
            "–" if each.drop_upper is None else f"{each.drop_upper:.3f}",
            "–" if each.p is None else f"{each.p:.2g}",
        )
        for each in tasks
    ]
    head = ("lm-eval task", "documents", "original", "compressed", "drop, surely at most", "p of a difference")
    return Table("Tasks", head, tuple(rows))


def evidence_metrics(evidence: Evidence | None) -> dict[str, float]:
    """As numbers, by the names that MLflow shows."""
    return {} if evidence is None else dict(_metrics(evidence))


def _metrics(evidence: Evidence) -> Iterator[tuple[str, float]]:
    yield "evaluation_items", float(evidence.items.items)
    if evidence.generation is not None:
        for side in ("baseline", "candidate"):
            for name, value in getattr(evidence.generation, side):
                yield f"{side}_answers_{name}", float(value)
        yield "answers_same_start", evidence.generation.same_start
    for level in evidence.load:
        at = f"{level.side}_at_{level.concurrency}"
        yield f"{at}_first_token_p90_ms", level.first_token_p90_ms
        yield f"{at}_per_token_p90_ms", level.per_token_p90_ms
        yield f"{at}_tokens_per_second", level.tokens_per_second
        yield f"{at}_peak_bytes", float(level.peak_bytes)
    for task in evidence.tasks:
        yield f"baseline_{task.task}_{task.metric}", task.baseline
        yield f"candidate_{task.task}_{task.metric}", task.candidate
