"""Results item by item, as scoring writes them and the gate reads them. No torch.

An artifact of results is a folder: ``items.jsonl`` (one held-out block a line), ``token_kl.safetensors`` (float32, one
array a form, KL of every position in nats), and those of ``answers``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.compression.paired import PairedMean

ITEMS, TOKEN_KL = "items.jsonl", "token_kl.safetensors"
BASELINE, CANDIDATE, PACKED = "baseline", "candidate", "packed"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FormSums:
    """Sums over one block's positions of one form of the model.

    Attributes:
        nll: negative log likelihoods, nats.
        kl: KL(baseline ‖ this), nats.
        agreed: positions where the most likely token is the baseline's.
        right: positions where it is the true next token.
        lost, won: positions where only the baseline's is, and where only this one's is.
    """

    nll: float
    kl: float
    agreed: int
    right: int
    lost: int
    won: int


@dataclass(frozen=True)
class SliceSums:
    """Sums over those of a block's positions that belong to one slice."""

    positions: int
    baseline_nll: float
    candidate_nll: float
    agreed: int


@dataclass(frozen=True)
class Item:
    """One held-out block, ``item`` its number in the data set; ``forms`` and ``slices`` by name."""

    item: int
    positions: int
    forms: dict[str, FormSums]
    slices: dict[str, SliceSums] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Blocks in the order of the data set, and for each form the KL of every position, float32 (blocks, positions)."""

    items: tuple[Item, ...]
    token_kl: dict[str, NDArray[np.float32]]

    def counts(self) -> Floats:
        return np.asarray([item.positions for item in self.items], dtype=np.float64)

    def sums(self, form: str, of: Callable[[FormSums], float]) -> Floats:
        """A figure of ``form`` a block."""
        return np.asarray([of(item.forms[form]) for item in self.items], dtype=np.float64)


def joined(parts: Iterable[Scores]) -> Scores:
    """The parts' blocks in the order of the data set, as if scored together."""
    every = list(parts)
    pairs = [(item, index, part) for part in every for index, item in enumerate(part.items)]
    pairs.sort(key=lambda pair: pair[0].item)
    names = every[0].token_kl if every else {}
    token_kl = {name: np.stack([part.token_kl[name][index] for _, index, part in pairs]) for name in names}
    return Scores(tuple(item for item, _, _ in pairs), token_kl)


def write_scores(folder: Path, scores: Scores) -> None:
    """Into the existing ``folder``."""
    lines = (json.dumps(asdict(item), sort_keys=True) + "\n" for item in scores.items)
    (folder / ITEMS).write_text("".join(lines), encoding="utf-8")
    save_file({name: np.ascontiguousarray(values) for name, values in scores.token_kl.items()}, folder / TOKEN_KL)


def read_scores(folder: Path) -> Scores:
    """Read back what ``write_scores`` wrote, numbers to the last bit."""
    return Scores(read_items(folder / ITEMS), load_file(folder / TOKEN_KL))


def read_items(path: Path) -> tuple[Item, ...]:
    """The blocks' results alone."""
    with path.open(encoding="utf-8") as lines:
        return tuple(_item(json.loads(line)) for line in lines)


def _item(said: dict[str, object]) -> Item:
    forms, slices = said.pop("forms"), said.pop("slices")
    assert isinstance(forms, dict) and isinstance(slices, dict)
    return Item(
        **said,  # type: ignore[arg-type]
        forms={name: FormSums(**sums) for name, sums in forms.items()},
        slices={name: SliceSums(**sums) for name, sums in slices.items()},
    )


def slice_totals(items: Sequence[Item]) -> dict[str, SliceSums]:
    """Sums over all blocks by slice; slices in the order of their first block."""
    found: dict[str, list[SliceSums]] = {}
    for item in items:
        for name, sums in item.slices.items():
            found.setdefault(name, []).append(sums)
    return {
        name: SliceSums(
            sum(each.positions for each in parts),
            sum(each.baseline_nll for each in parts),
            sum(each.candidate_nll for each in parts),
            sum(each.agreed for each in parts),
        )
        for name, parts in sorted(found.items())
    }


def slice_change(items: Sequence[Item], name: str) -> PairedMean:
    """Log of the slice's perplexity, candidate ÷ original, paired over the blocks that it stands in."""
    parts = [item.slices[name] for item in items if name in item.slices]
    return PairedMean([part.candidate_nll - part.baseline_nll for part in parts], [part.positions for part in parts])
