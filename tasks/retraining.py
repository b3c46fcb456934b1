"""What the tasks of a retraining hand to one another, and how it reads on a run's page."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.contracts import Compressed, GateCheck, Outcome, Place, Quality, Value


class Seen(Value):
    """A version whose documents count as seen."""

    name: str
    version: str
    alias: str = Field(description="champion, or newest")
    text_digest: str = Field(description="SHA-256 of the text that it was made with; empty where it is not recorded")
    documents: int | None = Field(description="Documents of that text; none where the version's run has no list of them")

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version} ({self.alias})"


class News(Value):
    """What of a text no version before has seen. ``uri`` and ``digest``: the list of the new documents' digests."""

    uri: Annotated[str, Place]
    digest: str
    text_digest: Annotated[str, Place]
    source: Annotated[str, Place]
    documents: Annotated[int, Place] = Field(description="Of the text as it is now")
    new: Annotated[int, Place]
    minimum: Annotated[int, Place] = Field(description="Documents that are asked for")
    seen: Annotated[tuple[Seen, ...], Place] = Field(description="The versions that it was compared with")

    @property
    def enough(self) -> bool:
        return self.new >= self.minimum

    @property
    def sentence(self) -> str:
        """The finding in words."""
        against = " and ".join(each.title for each in self.seen)
        unknown = [each.title for each in self.seen if each.documents is None]
        if not self.seen:
            return f"all {self.documents:,} documents of {self.source} are new: there is no version yet"
        note = f"; {' and '.join(unknown)} has no list of its documents, so they count as unseen" if unknown else ""
        what = "no document" if not self.new else f"{self.new:,}"
        verb = "is" if self.new in (0, 1) else "are"
        return f"{what} of the {self.documents:,} documents of {self.source} {verb} new since {against}{note}"


class Skipped(Value):
    """A run that had nothing to do."""

    registered_name: str
    reason: str
    news: News | None = Field(default=None, description="None where the text was not even read")


class AgainstChampion(Value):
    """The new version and the champion on the same held-out blocks."""

    champion: str = Field(description="Name and version")
    recorded: Quality = Field(description="The champion's figures of its own run, on its own held-out blocks")
    now: Quality = Field(description="The champion on the new version's held-out blocks")
    new: Quality
    check: GateCheck


class Retrained(Value):
    """A version that was trained on new text, compressed, proven and released."""

    news: News
    trained: Compressed
    champion: AgainstChampion | None = Field(description="None for the first version")
    outcome: Outcome


def skipped_markdown(skipped: Skipped) -> str:
    return f"# Skipped: {skipped.registered_name}\n\n{_sentence(skipped.reason)} Nothing was trained and nothing moved."


def news_markdown(news: News) -> str:
    rows = [
        f"| {each.title} | {'no list' if each.documents is None else f'{each.documents:,}'} | `{each.text_digest[:12]}` |"
        for each in news.seen
    ]
    table = ["", "| version | documents | text |", "|---|---|---|", *rows] if rows else []
    return "\n".join([
        f"# {news.new:,} new documents",
        "",
        f"{_sentence(news.sentence)} At least {news.minimum:,} are asked for.",
        *table,
        "",
        f"The text now: `{news.text_digest[:12]}`. A document is new when the digest of its text is in none of the lists.",
    ])  # fmt: skip


def champion_markdown(found: AgainstChampion) -> str:
    verdict = "not worse" if found.check.passed else "**worse**"
    return "\n".join([
        f"# Beside the champion: {verdict}",
        "",
        f"Both on the same {found.new.tokens:,} held-out positions; each from its reloaded folder, by what serves it.",
        "",
        f"| | new | {found.champion} | {found.champion}, as recorded |",
        "|---|---|---|---|",
        f"| perplexity | {found.new.perplexity:.4f} | {found.now.perplexity:.4f} | {found.recorded.perplexity:.4f} |",
        f"| same next token as its own original | {found.new.agreement:.1%} | {found.now.agreement:.1%} "
        f"| {found.recorded.agreement:.1%} |",
        f"| bytes | {found.new.bytes:,} | {found.now.bytes:,} | {found.recorded.bytes:,} |",
        "",
        f"{found.check.metric} {found.check.observed:.4f}, {found.check.sense} {found.check.limit:g}. The recorded "
        "figures are of the held-out blocks of that run, so they are no measure for these.",
    ])  # fmt: skip


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
