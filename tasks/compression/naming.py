"""Tensors by the names of an architecture's entry, whatever a folder leaves out of them."""

from __future__ import annotations

from pathlib import Path

from tasks.compression.architectures import Architecture


def by_entry(shards: dict[str, Path], entry: Architecture | None) -> tuple[dict[str, Path], dict[str, str]]:
    """Shards by the names of ``entry``, and what a shard calls those that it names otherwise.

    Folders that were saved without a head (GPT-2 and OPT as they were published) leave out the first part of a name:
    ``h.0.ln_1.weight`` for ``transformer.h.0.ln_1.weight``.
    """
    if entry is None:
        return shards, {}
    kept = {name: file for name, file in shards.items() if not name.endswith(entry.buffers)}
    base, _, rest = entry.embeddings.partition(".")
    if f"{entry.embeddings}.weight" in kept or f"{rest}.weight" not in kept:
        return kept, {}
    outside = tuple(f"{name}." for name in entry.outside if not name.startswith(f"{base}."))
    stored = {f"{base}.{name}": name for name in kept if not name.startswith(outside)}
    shorter = {short: full for full, short in stored.items()}
    return {shorter.get(name, name): file for name, file in kept.items()}, stored
