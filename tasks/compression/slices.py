"""Which positions of a block belong together: by length and label of their document, and by how much stands before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

DOCUMENT_EDGES = (64, 128, 256)
EARLY = 64


LABEL = "label "  # before the label, in the name of such a slice


def slices(block: Tensor, end: int | None, labels: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Name → bool mask over the ``length - 1`` positions of ``block`` (length,); a position belongs where the token
    that it predicts stands. Empty slices are left out.

    Args:
        end: the token between documents; without one there are no slices by document. The first document of a block
            and one that it does not end may be longer than what is seen of them: they are a slice of their own.
        labels: label → bool mask over the tokens of ``block``, of the documents that have it.
    """
    early = torch.arange(len(block) - 1) < EARLY
    found = {f"first {EARLY} tokens of a block": early, f"after {EARLY} tokens": ~early}
    if end is not None:
        found |= _by_document(block, end)
    found |= {f"{LABEL}{name}": mask[1:] for name, mask in (labels or {}).items()}
    return {name: mask for name, mask in found.items() if bool(mask.any())}


def _by_document(block: Tensor, end: int) -> dict[str, Tensor]:
    ends = (block == end).long()
    document = ends.cumsum(0) - ends  # an end belongs to the document that it ends
    lengths = torch.bincount(document)[document][1:]
    whole = ((document > 0) & (document < ends.sum()))[1:]
    found, low = {"documents that a block's edge cuts": ~whole}, 1
    for high in DOCUMENT_EDGES:
        found[f"whole documents of {low} to {high - 1} tokens"] = whole & (lengths >= low) & (lengths < high)
        low = high
    return {**found, f"whole documents of {low} tokens and more": whole & (lengths >= low)}
