"""Set weights to zero: by size alone, or with the rest repaired from calibration inputs.

Both take one weight matrix and return one; which layers, in which order and from which files is in ``layerwise``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.compression.hessian import BLOCK_COLUMNS, Factor, feed_back
from tasks.compression.kernels import by_rows, cut_block


def smallest(scores: Tensor, share: float) -> Tensor:
    """bool, the shape of ``scores``: true for the lowest scores, exactly ``round(share · count)`` of them."""
    count = round(share * scores.numel())
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[torch.topk(scores.reshape(-1), count, largest=False, sorted=False).indices] = True
    return mask.view(scores.shape)


def magnitude(weight: Tensor, sparsity: float) -> Tensor:
    """Zero the smallest ``sparsity`` of the weights of a matrix (rows, columns); the others stay as they are."""
    return weight.masked_fill(smallest(weight.abs(), sparsity), 0.0)


class _Cut:
    """Settles a column to itself without its cut weights; the cut is chosen once a block of columns."""

    def __init__(self, already: Tensor, sparsity: float) -> None:
        self._already, self._sparsity = already, sparsity

    def settle(self, columns: Tensor, values: Tensor, errors: Tensor, upper: Tensor) -> None:
        already = self._already[:, columns]
        scores = (values / upper.diagonal()).square_().masked_fill_(already, -1.0)
        by_rows(cut_block, (values, errors, smallest(scores, self._sparsity) | already), (upper,))


def sparsegpt(weight: Tensor, factor: Factor, sparsity: float, block: int = BLOCK_COLUMNS) -> Tensor:
    """Prune by SparseGPT, unstructured: weights that are already zero stay zero and count.

    In each block of columns the weights with the lowest ``w² / U_jj²`` go (Frantar & Alistarh 2023, algorithm 1), and
    the others take over what they did.

    Args:
        weight: float32 (rows, columns).
        factor: of the layer's inputs.
        sparsity: zero share of every block of columns, 0 to 1.
        block: columns a block.
    """
    return feed_back(weight, factor, _Cut(weight == 0, sparsity), block)
