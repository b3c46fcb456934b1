"""Data sets of the Hugging Face hub: files at a pinned commit, from a local copy, the hub, or its cache.

They are looked for in this order: a folder laid out as the hub's repository below ``copies`` (``copies/org/name``); the
hub, at the commit that the revision means now; and, where the hub cannot be reached, the hub's own cache on this
machine. Only data files are read; a loading script is never run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tasks.adapters.documents import Reading
from tasks.adapters.hub_layout import files_of, front_matter, licence_of
from tasks.adapters.texts import Text, text_of_files
from tasks.errors import RefusedData

_NAME = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>\w[\w.-]*(?:/\w[\w.-]*)*))?"
)
_HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, as its client is
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Of data sets that many people calibrate on: the configuration where none is named, and whether rows make articles.
_DEFAULTS = {"Salesforce/wikitext": "wikitext-2-raw-v1", "allenai/c4": "en"}
_ARTICLES = ("Salesforce/wikitext",)
_REMEDY = (
    "copy the data set's folder to this machine and set SLIMLINE_DATASETS to the folder above org/name, fill the hub's "
    "cache (HF_HOME) where there is a network, or choose another text"
)


@dataclass(frozen=True)
class HubName:
    """``org/name[:config][@revision]``, taken apart."""

    id: str
    config: str
    revision: str


@dataclass(frozen=True)
class HubPlaces:
    """Where to look. ``downloads``: our own cache; ``caches``: the hub's caches; ``address``: another hub's address."""

    downloads: Path
    copies: Path | None = None
    caches: tuple[Path, ...] = ()
    address: str | None = None


@dataclass(frozen=True)
class _Repository:
    """One state of a repository. ``revision``: a commit, or what is known of a copy."""

    revision: str
    files: Sequence[str]
    bring: Callable[[str], Path]


def hub_name(source: str) -> HubName | None:
    """The parts of a hub data set's name; none where ``source`` is none."""
    found = _NAME.fullmatch(source)
    if found is None:
        return None
    config = found["config"] or _DEFAULTS.get(found["id"], "")
    return HubName(found["id"], config, found["revision"] or "")


def read_hub(name: HubName, split: str, places: HubPlaces, reading: Reading, most: int) -> Text:
    """Read one split into at most ``most`` documents; files are brought one by one, as many as it takes.

    Raises:
        RefusedData: unknown, gated, unreachable without a copy, no such configuration or split, or malformed (with the
            line).
    """
    repository = _find(name, places)
    readme = next((file for file in repository.files if file == "README.md"), None)
    text = repository.bring(readme).read_text(encoding="utf-8", errors="replace") if readme else ""
    card = front_matter(text)
    chosen = files_of(name.id, card, repository.files, name.config, split)

    def files() -> Iterator[tuple[Path, str]]:
        for file in chosen:
            yield repository.bring(file), f"{name.id}/{file}"

    called = name.id + (f":{name.config}" if name.config else "") + f" ({split})"
    return text_of_files(
        called,
        licence_of(card),
        files(),
        reading,
        most,
        revision=repository.revision,
        articles=name.id in _ARTICLES and replace(reading, label="") == Reading(),
        root=f"{name.id}/",
    )


def _find(name: HubName, places: HubPlaces) -> _Repository:
    if places.copies is not None and (places.copies / name.id).is_dir():
        return _copied(name, places.copies / name.id)
    if _COMMIT.fullmatch(name.revision) and (cached := _cached(name, places)):
        return cached
    try:
        return _remote(name, places)
    except (_HTTP_ERROR, OSError) as error:
        missing = _absent(name, error)
        if missing is not None:
            raise missing from error
        if cached := _cached(name, places):
            return cached
        raise _refused(name, f"no local copy, and the hub cannot be reached: {_first_line(error)}") from error


def _copied(name: HubName, folder: Path) -> _Repository:
    commit = _commit_of(folder)
    if name.revision and name.revision != commit:
        raise _refused(
            name, f"revision {name.revision}; the copy in {folder} is of {commit or 'an unknown one'}",
            "a copy of that revision", "leave @revision out to read the copy, or copy that revision",
        )  # fmt: skip
    return _folder(folder, commit or "a local copy, its commit unknown")


def _folder(folder: Path, revision: str) -> _Repository:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return _Repository(revision, files, lambda file: folder / file)


def _commit_of(folder: Path) -> str:
    """What huggingface_hub notes beside files that it downloads into a folder; empty for any other copy."""
    notes = sorted((folder / ".cache" / "huggingface" / "download").rglob("*.metadata"))
    first = notes[0].read_text(encoding="utf-8").split("\n", 1)[0].strip() if notes else ""
    return first if _COMMIT.fullmatch(first) else ""


def _remote(name: HubName, places: HubPlaces) -> _Repository:
    """The repository at the commit that the revision means now."""
    info = HfApi(endpoint=places.address).dataset_info(name.id, revision=name.revision or None, timeout=30)
    commit = str(info.sha)
    # What the revision meant, for a day without the hub: its cache notes that only of what is asked for by that name.
    meant = places.downloads / "hub" / _folder_of(name) / "refs" / (name.revision or "main")
    if name.revision != commit:
        meant.parent.mkdir(parents=True, exist_ok=True)
        meant.write_text(commit, encoding="utf-8")

    def bring(file: str) -> Path:
        try:
            return Path(
                hf_hub_download(
                    name.id, file, repo_type="dataset", revision=commit, cache_dir=places.downloads / "hub",
                    endpoint=places.address,
                )
            )  # fmt: skip
        except (_HTTP_ERROR, OSError) as error:
            raise _absent(name, error) or _refused(
                name, f"{file} did not come: {_first_line(error)}", "a hub that answers", "run again"
            ) from error

    return _Repository(commit, [entry.rfilename for entry in info.siblings or []], bring)


def _cached(name: HubName, places: HubPlaces) -> _Repository | None:
    """What lies in a cache of this revision; none where none of it does. It may be a part of the repository."""
    for cache in (places.downloads / "hub", *places.caches):
        if not (cache / _folder_of(name)).is_dir():
            continue
        try:
            snapshot = Path(
                snapshot_download(
                    name.id, repo_type="dataset", revision=name.revision or None, cache_dir=cache, local_files_only=True
                )
            )
        except (OSError, ValueError):
            continue
        return _folder(snapshot, snapshot.name)
    return None


def _folder_of(name: HubName) -> str:
    """Of a data set in a cache of the hub (https://huggingface.co/docs/huggingface_hub/guides/manage-cache)."""
    return f"datasets--{name.id.replace('/', '--')}"


def _absent(name: HubName, error: BaseException) -> RefusedData | None:
    """The refusal of what the hub itself has said no to."""
    if isinstance(error, GatedRepoError):
        return _refused(
            name, "the hub keeps it behind a form or a token", "a data set that may be read",
            "accept its terms on the hub and log in (`hf auth login`), or set HF_TOKEN",
        )  # fmt: skip
    if isinstance(error, RevisionNotFoundError):
        return _refused(name, f"no revision {name.revision!r}", "a branch, tag or commit", "leave @revision out")
    if isinstance(error, RepositoryNotFoundError):
        return _refused(name, f"the hub does not know it: {_first_line(error)}")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        return _refused(name, _first_line(error), "files that the hub has", "run again")
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _refused(name: HubName, observed: str, limit: str = "", remedy: str = _REMEDY) -> RefusedData:
    return RefusedData(
        f"hub data set {name.id} cannot be used",
        observed=observed,
        limit=limit or "a data set of the hub, or a copy of it on this machine",
        remedy=remedy,
    )
