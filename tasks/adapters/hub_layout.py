"""Which files of a hub repository a configuration and a split are, by the rules of the datasets library.

The repository's README.md says it in its front matter (``configs``, ``data_files``:
https://huggingface.co/docs/hub/datasets-manual-configuration); where it does not, the names of the files do
(https://huggingface.co/docs/hub/datasets-data-files-configuration). A loading script is never run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from tasks.adapters.records import FORMATS, format_of
from tasks.errors import RefusedData

_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def front_matter(readme: str) -> dict[str, Any]:
    """The YAML between the first two ``---`` of a README.md; empty where there is none, or it is none."""
    found = re.match(r"\A\ufeff?---\s*\n(.*?)\n---\s*(?:\n|\Z)", readme, re.DOTALL)
    if not found:
        return {}
    try:
        card = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def licence_of(card: dict[str, Any]) -> str:
    """The licence that the card states, several ones joined."""
    said = card.get("license") or card.get("licence")
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said or "not stated")


def files_of(name: str, card: dict[str, Any], files: Sequence[str], config: str, split: str) -> list[str]:
    """The data files of ``config`` (empty: the default one) and ``split``, sorted by name.

    Raises:
        RefusedData: no such configuration or split, with those that there are; or no files that can be read.
    """
    data = sorted(file for file in files if format_of(file) and not file.startswith(".") and "/." not in file)
    if not data:
        script = ", but a loading script, which is never run" if any(file.endswith(".py") for file in files) else ""
        raise _refused(
            name, f"no data files among {len(files)} files{script}",
            "Parquet, JSON lines, CSV or text", "try the revision refs/convert/parquet, which the hub makes of many",
        )  # fmt: skip
    chosen = _configuration(name, card, config)
    if chosen is None:
        below = [file for file in data if file.startswith(f"{config}/")] if config else data
        if not below:
            folders = sorted({file.split("/")[0] for file in data if "/" in file})
            raise _refused(name, f"configuration {config!r}", f"one of {folders}" if folders else "no configuration")
        return _by_keyword(name, below, split)
    patterns = _patterns(chosen, split)
    if isinstance(patterns, list):
        if not patterns:
            raise _refused(name, f"split {split!r}", f"one of {_splits(chosen)}")
        found = [file for file in data if any(_matches(pattern, file) for pattern in patterns)]
        if not found:
            raise _refused(name, f"no file here matches {patterns}", "at least one", "copy those files too")
        return _one_format(found)
    folder = str(chosen.get("data_dir") or "").strip("/")
    return _by_keyword(name, [file for file in data if not folder or file.startswith(f"{folder}/")], split)


def _configuration(name: str, card: dict[str, Any], wanted: str) -> dict[str, Any] | None:
    """The chosen entry of ``configs``, or none where the card has no such list."""
    configs = [entry for entry in card.get("configs") or [] if isinstance(entry, dict)]
    if not configs:
        return None
    names = [str(entry.get("config_name", "default")) for entry in configs]
    if wanted:
        if wanted not in names:
            raise _refused(name, f"configuration {wanted!r}", f"one of {names}")
        return configs[names.index(wanted)]
    default = [
        entry for entry, called in zip(configs, names, strict=True) if entry.get("default") or called == "default"
    ]
    if default or len(configs) == 1:
        return (default or configs)[0]
    raise _refused(name, "no configuration", f"one of {names}", f"write {name}:{names[0]}")


def _entries(chosen: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """(split, patterns) of ``data_files`` in any of its forms: a string, a list, objects, a mapping."""
    said = chosen.get("data_files")
    if isinstance(said, dict):
        return [(str(split), _listed(paths)) for split, paths in said.items()]
    entries = list[tuple[str, list[str]]]()
    for entry in _listed(said):
        if isinstance(entry, dict):
            entries.append((str(entry.get("split", "train")), _listed(entry.get("path"))))
        else:
            entries.append(("train", [str(entry)]))
    return entries


def _patterns(chosen: dict[str, Any], split: str) -> list[str] | None:
    if not chosen.get("data_files"):
        return None
    return [pattern for called, patterns in _entries(chosen) if called == split for pattern in patterns]


def _splits(chosen: dict[str, Any]) -> list[str]:
    return sorted({called for called, _ in _entries(chosen)})


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _matches(pattern: str, file: str) -> bool:
    """Glob of the hub: ``*`` within a folder, ``**`` over folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern.removeprefix("./"))
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return (
        re.fullmatch("".join(meant.get(p, p if p.startswith("[") else re.escape(p)) for p in parts), file) is not None
    )


def _by_keyword(name: str, files: list[str], split: str) -> list[str]:
    splits = {file: _split_in(file) for file in files}
    if not any(splits.values()):
        if split == "train":
            return _one_format(files)
        raise _refused(name, f"split {split!r}", "train: the names of the files tell no splits apart")
    wanted = next((known for known, words in _KEYWORDS.items() if split in words), split)
    found = [file for file in files if splits[file] == wanted]
    if not found:
        raise _refused(name, f"split {split!r}", f"one of {sorted(filter(None, set(splits.values())))}")
    return _one_format(found)


def _split_in(file: str) -> str:
    words = set(re.split(r"[^a-z]+", file.lower()))
    return next((split for split, keywords in _KEYWORDS.items() if words & set(keywords)), "")


def _one_format(files: Iterable[str]) -> list[str]:
    """Many repositories hold the same records in several formats: the one with the most files is read."""
    kinds = {file: str(format_of(file)) for file in files}
    counts = Counter(kinds.values())
    kind = max(FORMATS, key=lambda each: counts[each])
    return sorted(file for file in kinds if kinds[file] == kind)


def _refused(name: str, observed: str, limit: str, remedy: str = "choose one of these") -> RefusedData:
    return RefusedData(f"hub data set {name} cannot be read", observed=observed, limit=limit, remedy=remedy)
