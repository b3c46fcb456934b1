"""What the tasks of a retraining hand to one another, and how it reads on a run's page and in a terminal."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.contracts import Compressed, ModelRef, Outcome, Place, Value
from tasks.training_text import training_sentence


class Seen(Value):
    """A version whose documents count as seen."""

    name: str
    version: str
    why: str = Field(description="champion, or restored: it was tried on these documents and taken back")
    text_digest: str = Field(description="SHA-256 of the text that it was made with; empty where it is not recorded")
    documents: int | None = Field(description="Documents of that text; none where its run has no list of them")

    @property
    def title(self) -> str:
        return f"{self.name} {self.version} ({self.why})"


class News(Value):
    """What of a text no version before has seen. ``uri`` and ``digest``: the list of the new documents' digests."""

    uri: Annotated[str, Place]
    digest: str
    text_digest: Annotated[str, Place]
    source: Annotated[str, Place]
    documents: Annotated[int, Place] = Field(description="Of the text as it is now")
    cut: Annotated[bool, Place] = Field(description="The source has more documents than were read")
    new: Annotated[int, Place]
    minimum: Annotated[int, Place] = Field(description="Documents that are asked for")
    seen: Annotated[tuple[Seen, ...], Place] = Field(description="The versions that it was compared with")

    @property
    def enough(self) -> bool:
        return self.new >= self.minimum

    @property
    def sentence(self) -> str:
        """The finding in words, and what is asked for."""
        return f"{self._found}; at least {self.minimum:,} {'is' if self.minimum == 1 else 'are'} asked for"

    @property
    def _found(self) -> str:
        if not self.seen:
            return f"all {self.documents:,} documents of {self.source} are new: no version has been made from any"
        what = "no document" if not self.new else f"{self.new:,}"
        verb = "is" if self.new in (0, 1) else "are"
        against = " and ".join(each.title for each in self.seen)
        found = f"{what} of the {self.documents:,} documents of {self.source} {verb} new since {against}"
        if unknown := [each.title for each in self.seen if each.documents is None]:
            found += f" ({' and '.join(unknown)}: no list of documents, so they count as unseen)"
        return f"{found}; the source has more that were not read (data.most_documents)" if self.cut else found


class Before(Value):
    """The model that is trained, and what the training must make better."""

    model: ModelRef
    min_gain: float = Field(description="Fall of the held-out perplexity, share, at least; 0: not asked")


class Skipped(Value):
    """A run that had nothing to do."""

    registered_name: str
    reason: str
    news: News | None = Field(default=None, description="None where the text was not even read")


class Retrained(Value):
    """A version that was trained on new text, compressed, proven and released."""

    news: News
    parent: str = Field(description="Name and number of the champion then; empty for the first version")
    trained: Compressed
    outcome: Outcome


def skipped_markdown(skipped: Skipped) -> str:
    """Why there was nothing to do."""
    return f"# Skipped: {skipped.registered_name}\n\n{_sentence(skipped.reason)} Nothing was trained and nothing moved."


def news_markdown(news: News) -> str:
    """What was found, and what it was compared with."""
    counts = ["no list" if each.documents is None else f"{each.documents:,}" for each in news.seen]
    rows = [
        f"| {each.title} | {count} | `{each.text_digest[:12]}` |" for each, count in zip(news.seen, counts, strict=True)
    ]
    table = ["", "| version | documents | text |", "|---|---|---|", *rows] if rows else []
    return "\n".join([
        f"# {news.new:,} new {'document' if news.new == 1 else 'documents'}",
        "",
        _sentence(news.sentence),
        *table,
        "",
        f"The text now: `{news.text_digest[:12]}`. A document is new when no list has its digest.",
    ])  # fmt: skip


def trained_lines(done: Retrained) -> list[str]:
    """What was learnt, for a terminal."""
    losses = done.trained.losses
    after = f" after {done.parent}" if done.parent else ""
    return [
        f"New text    {_sentence(done.news.sentence)}",
        f"Trained     {done.trained.model.name}{after}: {len(losses)} steps, {done.trained.tokens:,} tokens, loss "
        f"{losses[0]:.4f} → {losses[-1]:.4f}",
        f"Gain        {training_sentence(done.outcome.scorecard.training)}",
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
