"""Records → documents: which part of a record is the text.

A document is a text, or a chat: a list of messages that the model's own template renders later. Chats stand as
canonical JSON, so that both are strings with a digest.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tasks.adapters.document_digests import digest_of
from tasks.adapters.records import Record, malformed
from tasks.errors import RefusedData

Shape = Literal["auto", "field", "template", "messages", "turns"]
ROLES = ("system", "user", "assistant", "tool", "developer")
_CHAT_FIELDS = ("messages", "conversations", "conversation")
_PAIRS = (
    ("prompt", "response"), ("prompt", "completion"), ("instruction", "input", "output"), ("instruction", "output"),
    ("instruction", "context", "response"), ("instruction", "response"), ("question", "answer"),
)  # fmt: skip
_OTHER_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True)
class Reading:
    """What of a record is a document, and what marks it; see ``DataChoice`` for the words. ``only``: digests of the
    documents that are taken; none: all.
    """

    shape: Shape = "auto"
    fields: str = ""
    label: str = ""
    only: frozenset[str] = frozenset()

    def wants(self, document: str) -> bool:
        """Whether it is one of ``only``."""
        return not self.only or digest_of(document.strip()) in self.only

    def wanted(self, documents: Iterable[str]) -> Iterator[str]:
        """Those of ``only``; no further document is asked for once all are there."""
        if not self.only:
            yield from documents
            return
        left = set(self.only)
        for document in filter(self.wants, documents):
            yield document
            left.discard(digest_of(document.strip()))
            if not left:
                return

    def check(self) -> None:
        """Refuse fields that cannot fit the shape, before anything is read.

        Raises:
            RefusedData: with what is wrong.
        """
        if self.shape == "template":
            _template(self.fields)
        elif self.shape == "turns" and self.fields and len(_names(self.fields)) < 2:
            raise _refused(f"data.fields = {self.fields!r}", "two or more names, the last one is the answer's")
        elif self.shape in ("field", "messages") and len(_names(self.fields)) > 1:
            raise _refused(f"data.fields = {self.fields!r}", f"one name, for document = {self.shape}")
        elif self.shape == "auto" and self.fields:
            raise _refused(f"data.fields = {self.fields!r}, data.document = auto", "fields only with a chosen document")


@dataclass(frozen=True)
class Extract:
    """Takes the document out of one record's value. ``unit``: what a document is, in words; ``chat``: messages."""

    unit: str
    chat: bool
    take: Callable[[Any], str]


def documents_of(
    records: Iterable[Record], name: str, extract: Extract, label: Callable[[Any], str] | None = None
) -> Iterator[tuple[str, str]]:
    """(document, its label or nothing) of each record; empty documents are left out.

    Raises:
        RefusedData: a record has not what ``extract`` takes, or no label; with its line.
    """
    for record in records:
        try:
            document = extract.take(record.value)
            document.encode()  # half of a surrogate pair, which JSON can name, is no character
        except ValueError as error:
            limit = f"records that have what the first one has ({extract.unit})"
            remedy = f"mend {record.where}, or say in data.document and data.fields what a document is"
            raise malformed(name, record.where, str(error), limit, remedy) from error
        if document.strip():
            yield document, _label_of(record, name, label) if label else ""


def _label_of(record: Record, name: str, label: Callable[[Any], str]) -> str:
    try:
        return label(record.value)
    except ValueError as error:
        limit = "the field that data.label names in every record"
        remedy = f"mend {record.where}, or choose another data.label"
        raise malformed(name, record.where, str(error), limit, remedy) from error


def extractor(reading: Reading, first: Any) -> Extract:
    """How documents are taken, decided once, by the choice and the first record's value."""
    if isinstance(first, str):
        return Extract("a paragraph", False, _paragraph)
    names = _names(reading.fields)
    if reading.shape == "auto":
        return _guessed(first)
    if reading.shape == "template":
        pieces, unit = _template(reading.fields), "fields of a record in a template"
        return Extract(unit, False, lambda value: _filled(value, pieces))
    if reading.shape == "turns":
        return _turns(names or _known_pair(first) or _PAIRS[0])
    if reading.shape == "messages":
        return _messages(names[0] if names else next((n for n in _CHAT_FIELDS if _has(first, n)), "messages"))
    return _field(names[0] if names else "text")


def words_of(document: str, chat: bool) -> str:
    """What people wrote in it: a text itself; of a chat, all but the system's message, which every chat may share."""
    if not chat:
        return document
    return "\n".join(message["content"] for message in json.loads(document) if message["role"] != "system")


def _guessed(first: Any) -> Extract:
    if not _has(first, "text"):
        for name in _CHAT_FIELDS:
            if _has(first, name):
                return _messages(name)
        if pair := _known_pair(first):
            return _turns(pair)
    return _field("text")


def _paragraph(value: Any) -> str:
    return str(value)


def _has(value: Any, name: str) -> bool:
    return isinstance(value, dict) and value.get(name) is not None


def _known_pair(first: Any) -> tuple[str, ...] | None:
    keys = first.keys() if isinstance(first, dict) else set()
    return next((pair for pair in _PAIRS if keys >= set(pair)), None)


def _field(name: str) -> Extract:
    return Extract(f"the field {name!r} of a record", False, lambda value: _string(value, name))


def _string(value: Any, name: str, *, may_lack: bool = False) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, str):
        return found
    if found is None and isinstance(value, dict) and name in value:
        return ""  # null, as Parquet has where nothing is
    if may_lack and found is None and isinstance(value, dict):
        return ""
    said = f"among the fields {', '.join(map(str, value))}" if isinstance(value, dict) else f"in {str(value)[:60]!r}"
    raise ValueError(f"no string under {name!r} {said}")


def _turns(names: tuple[str, ...]) -> Extract:
    *asking, answer = names

    def take(value: Any) -> str:
        asked = [_string(value, asking[0])] + [_string(value, name, may_lack=True) for name in asking[1:]]
        said = _string(value, answer)
        question = "\n\n".join(part for part in asked if part.strip())
        if not question or not said.strip():
            return ""
        return _canonical([{"role": "user", "content": question}, {"role": "assistant", "content": said}])

    return Extract(f"a chat of two turns, {' + '.join(asking)} → {answer}", True, take)


def _messages(name: str) -> Extract:
    def take(value: Any) -> str:
        found = value.get(name) if isinstance(value, dict) else None
        if not isinstance(found, list):
            raise ValueError(f"no list of messages under {name!r}")
        return _canonical([_message(each, index) for index, each in enumerate(found, start=1)]) if found else ""

    return Extract(f"a chat, the messages under {name!r}", True, take)


def _message(message: Any, index: int) -> dict[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"message {index} is no object")
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise ValueError(f"message {index} has the role {role!r}, none of {', '.join(ROLES)}")
    if isinstance(content, list):  # parts, as multimodal chats have them
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = None if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        raise ValueError(f"message {index} has no text as its content")
    return {"role": role, "content": content}


def _canonical(messages: list[dict[str, str]]) -> str:
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


def _names(fields: str) -> tuple[str, ...]:
    return tuple(part for each in fields.split(",") if (part := each.strip()))


def _template(fields: str) -> list[tuple[str, str | None]]:
    """(text, name of the field behind it) of a template; only plain names in braces, no attributes and no formats."""
    shown = "a template with field names in braces, such as {instruction}\\n{response}; {{ and }} are braces themselves"
    try:
        parsed = list(string.Formatter().parse(fields))
    except ValueError as error:
        raise _refused(f"data.fields = {fields!r}: {error}", shown) from error
    names = [name for _, name, _, _ in parsed if name is not None]
    formatted = any(form or conversion for _, _, form, conversion in parsed)
    if not names or formatted or not all(re.fullmatch(r"[\w -]+", name) for name in names):
        raise _refused(f"data.fields = {fields!r}", shown)
    return [(text.replace("\\n", "\n"), name) for text, name, _, _ in parsed]


def _filled(value: Any, pieces: list[tuple[str, str | None]]) -> str:
    given = ["" if name is None else _string(value, name) for _, name in pieces]
    if not any(part.strip() for part in given):
        return ""
    return "".join(text + part for (text, _), part in zip(pieces, given, strict=True))


def _refused(observed: str, limit: str) -> RefusedData:
    return RefusedData(
        "it is not clear what a document is",
        observed=observed,
        limit=limit,
        remedy="set data.document and data.fields to what a record of the text has",
    )
