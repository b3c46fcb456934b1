"""What is known of a text once it was read, handed from task to task."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.contracts import Place, Value


class TextRef(Value):
    """A text that was read. Its digests are what it is; the rest says where it lay and what its keepers say."""

    digest: str = Field(description="SHA-256 over the documents in order")
    name: Annotated[str, Place]
    licence: Annotated[str, Place]
    documents: Annotated[int, Place]
    chat: Annotated[bool, Place] = False
    revision: Annotated[str, Place] = Field(default="", description="Commit of a hub data set")
    unit: Annotated[str, Place] = Field(default="", description="What a document is, in words")
    duplicates: Annotated[int, Place] = Field(default=0, description="Exact ones, dropped when it was read")
    cut: Annotated[bool, Place] = Field(default=False, description="The source has more documents than were read")
    left_out: Annotated[str, Place] = Field(default="", description="What else the source had, in words: no documents")
    labels: str = Field(default="", description="SHA-256 over the documents' labels; empty where none were asked for")


class DataText(Value):
    """The text of a run, and the one that the held-out blocks come from where that is another."""

    text: TextRef
    held_out: TextRef | None = None
