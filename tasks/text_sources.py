"""Which reader a text source has, by what its name looks like; and texts that were read, kept under their digest.

A new kind of source is one line in ``READERS``: a check that costs next to nothing, and a reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from tasks.adapters import labels
from tasks.adapters.aws_connection import Connection
from tasks.adapters.document_digests import digest_of
from tasks.adapters.documents import Extract, Reading
from tasks.adapters.hub_data import HubName, HubPlaces, hub_name, read_hub
from tasks.adapters.notes import write_json
from tasks.adapters.records import format_of
from tasks.adapters.s3_data import check_s3, read_s3, s3_place
from tasks.adapters.texts import (
    KNOWN,
    MOST_DOCUMENTS,
    Text,
    check_text_source,
    no_labels,
    read_text,
    refused_source,
    text_of,
)
from tasks.captured import check_captured, read_captured
from tasks.data_contracts import TextRef
from tasks.errors import ArtifactDamaged
from tasks.recipes import DataChoice
from tasks.settings import settings

_KEPT = 16  # texts; the oldest go first


class Reader(NamedTuple):
    """``check``: refuse what cannot work, cheaply, before any work; ``read``: the text as it is now, or of the whole
    source, however long, the documents with these digests.
    """

    check: Callable[[DataChoice], None]
    read: Callable[[DataChoice, frozenset[str]], Text]


def kind_of(source: str) -> str:
    """The name in ``READERS`` of what reads ``source``: the scheme before ``://``, or hub or local.

    What lies on this machine is local, whatever else its name could mean.

    Raises:
        RefusedData: no such scheme; with the forms that there are.
    """
    scheme, separator, _ = source.partition("://")
    if separator:
        if scheme not in READERS:
            raise refused_source(source, f"the scheme {scheme}://")
        return scheme
    local = source in KNOWN or source.startswith((".", "/", "~")) or format_of(source) or Path(source).exists()
    return "hub" if not local and hub_name(source) else "local"


def check_source_of(choice: DataChoice) -> None:
    """Refuse a text, and what is to be read of it, cheaply.

    Raises:
        RefusedData: with what was seen, what is allowed, and what to change.
    """
    for each in (choice.itself(), choice.held_out()):
        if each is not None:
            reading_of(each).check()
            READERS[kind_of(each.source)].check(each)


def read_source(choice: DataChoice) -> TextRef:
    """Read the text as it is now, and keep it for ``text_again``.

    Raises:
        RefusedData: it cannot be read; with the line where there is one.
        DownloadFailed: worth another try.
    """
    return _kept_ref(_read(choice))


def text_of_digest(choice: DataChoice, digest: str, marks: str, documents: Sequence[str]) -> TextRef:
    """The text with this digest, and that of its labels, kept for ``text_again``: what is kept of it, else the source
    as it is now, else those of its documents whose digests are in ``documents``, in that order or in the source's.
    Where none has the digest, the last.

    Raises:
        RefusedData, DownloadFailed: as ``read_source``.
    """
    if (kept := _read_kept(digest, marks)) is not None:
        return _kept_ref(kept)
    now = _read(choice)
    if now.digest == digest:
        return _kept_ref(now)
    there, wanted = {digest_of(document): document for document in now.documents}, frozenset(documents)
    if now.cut and not wanted <= there.keys():
        # And one that is there for certain: nothing at all would be refused as an empty text.
        now = _read(choice, wanted | {digest_of(now.documents[0])})
        there = {digest_of(document): document for document in now.documents}
    had = [there[each] for each in documents if each in there]
    if not had:
        return _kept_ref(now)
    part = _part(now, had)
    if part.digest != digest:  # the lists of earlier versions are sorted, and say nothing of the order
        part = _part(now, [document for mark, document in there.items() if mark in wanted])
    return _kept_ref(part)


def _part(text: Text, documents: Sequence[str]) -> Text:
    """The text that these documents of it are by themselves."""
    how = [Extract(text.unit, text.chat, str)]
    known = dict(zip(text.documents, text.labels, strict=True)) if text.labels else {}
    return text_of(
        text.name, text.licence, documents, most=len(documents), revision=text.revision, extract=how, marks=known
    )


def _read(choice: DataChoice, only: frozenset[str] = frozenset()) -> Text:
    return READERS[kind_of(choice.source)].read(choice, only)


def _kept_ref(text: Text) -> TextRef:
    _keep(text)
    facts = {
        name: getattr(text, name) for name in ("digest", "name", "licence", "chat", "revision", "unit", "left_out")
    }
    return TextRef(
        documents=len(text.documents), duplicates=text.duplicates, cut=text.cut, labels=labels.digest_of(text.labels),
        **facts,
    )  # fmt: skip


def text_again(choice: DataChoice, ref: TextRef) -> Text:
    """What was read with this digest, whatever lies at the source by now; on another machine it is read once more.

    Raises:
        ArtifactDamaged: the source has changed since, and what was read is not here.
    """
    if (kept := _read_kept(ref.digest, ref.labels)) is not None:
        return kept
    found = _read(choice if ref.labels else choice.model_copy(update={"label": ""}))
    if found.digest != ref.digest or labels.digest_of(found.labels) != ref.labels:
        raise ArtifactDamaged(
            f"text {choice.source} has changed since it was read",
            observed=found.digest,
            limit=ref.digest,
            remedy="run again: what is there now is another data set",
        )
    return found


def reading_of(choice: DataChoice, only: frozenset[str] = frozenset()) -> Reading:
    """What of a record is a document, and which of them are taken; none said: all."""
    return Reading(choice.document, choice.fields, choice.label, only)


def _read_kept(digest: str, marks: str) -> Text | None:
    kept = _kept(digest, marks)
    if not kept.exists():
        return None
    said = json.loads(kept.read_text(encoding="utf-8"))
    return Text(**(said | {"documents": tuple(said["documents"]), "labels": tuple(said.get("labels", ()))}))


def _kept(digest: str, marks: str) -> Path:
    """The same documents with other labels are kept beside them."""
    return settings().downloads / "texts" / (f"{digest}-{marks[:16]}.json" if marks else f"{digest}.json")


def _keep(text: Text) -> None:
    """For the next task to read again. Named texts are always at hand."""
    if text.name in KNOWN:
        return
    kept = _kept(text.digest, labels.digest_of(text.labels))
    write_json(kept, asdict(text))
    with suppress(FileNotFoundError):  # another process makes room too
        for old in sorted(kept.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink(missing_ok=True)


def _check_local(choice: DataChoice) -> None:
    check_text_source(choice.source)
    if choice.label and choice.source in KNOWN:
        raise no_labels(choice.source, choice.label, "its documents have no fields")
    if choice.label == labels.FOLDER and not Path(choice.source).expanduser().is_dir():
        raise no_labels(choice.source, choice.label, "it is a single file")


def _read_local(choice: DataChoice, only: frozenset[str]) -> Text:
    # Of named texts all is read, for they are short; of files, on until all that is wanted has been found.
    most = choice.most_documents if not only else MOST_DOCUMENTS if choice.source in KNOWN else len(only)
    return read_text(choice.source, settings().downloads, reading_of(choice, only), most)


def _hub_name(choice: DataChoice) -> HubName:
    name = hub_name(choice.source)
    if name is None:
        raise refused_source(choice.source, "no hub data set's name", "org/name:config@revision")
    return name


def _check_hub(choice: DataChoice) -> None:
    _hub_name(choice)


def _read_hub(choice: DataChoice, only: frozenset[str]) -> Text:
    """Of a data set that has no end for this machine, no more than a run reads; ``only`` or not."""
    now = settings()
    places = HubPlaces(now.downloads, now.datasets, now.hub_caches, now.hub)
    return read_hub(_hub_name(choice), choice.split, places, reading_of(choice), choice.most_documents)


def _connection() -> Connection:
    return Connection(settings().region, settings().aws_endpoint_url)


def _check_s3(choice: DataChoice) -> None:
    s3_place(choice.source)
    check_s3(choice.source, _connection())


def _read_s3(choice: DataChoice, only: frozenset[str]) -> Text:
    most = len(only) or choice.most_documents
    return read_s3(choice.source, _connection(), settings().downloads, reading_of(choice, only), most)


def _check_captured(choice: DataChoice) -> None:
    if choice.label:
        raise no_labels(choice.source, choice.label, "requests have no fields that tell them apart")
    check_captured(choice.source)


def _read_captured(choice: DataChoice, only: frozenset[str]) -> Text:
    return read_captured(choice.source, len(only) or choice.most_documents, only)


READERS: dict[str, Reader] = {
    "local": Reader(_check_local, _read_local),
    "hub": Reader(_check_hub, _read_hub),
    "s3": Reader(_check_s3, _read_s3),
    "capture": Reader(_check_captured, _read_captured),
    "capture+s3": Reader(_check_captured, _read_captured),
}
