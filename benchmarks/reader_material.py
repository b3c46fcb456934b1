"""Real questions for ``question_answering``: articles that are held out whole."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from tasks.adapters.questions import read_question_file
from tasks.errors import RefusedData
from tasks.reader_contracts import Question

FEWEST_ARTICLES = 10  # below, an interval over articles would say nothing: contexts are drawn instead


@dataclass(frozen=True)
class Material:
    """Questions to learn from and to be measured on, which share no unit; the unit of each held-out question."""

    training: tuple[Question, ...]
    held_out: tuple[Question, ...]
    held_out_units: tuple[str, ...]
    unit: str
    digest: str

    def said(self) -> str:
        """What was read, in a line."""
        held = f"{len(self.held_out)} held out in {len(set(self.held_out_units))} {self.unit}s"
        return f"{len(self.training)} questions to learn from, {held}; questions' SHA-256 {self.digest[:12]}"


def read_material(source: str, held_out: int, *, seed: int) -> Material:
    """Read a file of questions and hold whole articles out, in an order drawn from ``seed``, until there are
    ``held_out`` questions or more. A file that names fewer than ten articles is divided by contexts.

    Raises:
        RefusedData: the file cannot be read, or nothing would be left to learn from.
    """
    read = read_question_file(source)
    titles = _titles(Path(source).expanduser())
    by_article = len(set(titles.values())) >= FEWEST_ARTICLES
    units: dict[str, list[Question]] = {}
    for question in read.questions:
        unit = titles.get(question.context, question.context) if by_article else question.context
        units.setdefault(unit, []).append(question)
    order = sorted(units)
    random.Random(seed).shuffle(order)
    taken = 0
    while taken < len(order) and sum(len(units[unit]) for unit in order[:taken]) < held_out:
        taken += 1
    if held_out < 1 or taken >= len(order):
        raise RefusedData(
            "no questions would be left to learn from" if held_out > 0 else "nothing would be measured",
            observed=f"{held_out} to hold out of {len(read.questions)} questions about {len(order)} "
            f"{'articles' if by_article else 'contexts'}",
            limit="at least 1, and fewer than there are",
            remedy="change --held-out, or give more questions",
        )
    held = [(question, unit) for unit in order[:taken] for question in units[unit]]
    return Material(
        training=tuple(question for unit in order[taken:] for question in units[unit]),
        held_out=tuple(question for question, _ in held),
        held_out_units=tuple(unit for _, unit in held),
        unit="article" if by_article else "context",
        digest=read.digest,
    )


def _titles(path: Path) -> dict[str, str]:
    """Context → title of its article, as far as the file names them; the file has been read once without fault."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        found = [(entry["context"], entry.get("title")) for entry in entries]
    else:
        articles = json.loads(text)["data"]
        found = [(each["context"], article.get("title")) for article in articles for each in article["paragraphs"]]
    return {context: title for context, title in found if isinstance(title, str) and title}
