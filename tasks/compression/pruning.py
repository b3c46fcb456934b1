"""Set weights to zero: by size, by size times input, or with the rest repaired from calibration inputs.

All take one weight matrix and return one; which layers, in which order and from which files is in ``layerwise``.
Zeros are unstructured, or n:m: of every m consecutive input columns n weights stay (2:4 is what NVIDIA's sparse tensor
cores read; Mishra et al. 2021, arXiv:2104.08378).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.compression.hessian import BLOCK_COLUMNS, Factor, feed_back
from tasks.compression.kernels import by_rows, cut_block, cut_groups


@dataclass(frozen=True)
class Pattern:
    """n:m: ``kept`` of every ``of`` consecutive columns stay."""

    kept: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """``2:4`` and the like; none for ``unstructured``.

        Raises:
            ValueError: anything else, or n not between 1 and m - 1, or m above 64.
        """
        if text == "unstructured":
            return None
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None or not 1 <= int(found[1]) < int(found[2]) <= BLOCK_COLUMNS // 2:
            raise ValueError(f"a pattern is 'unstructured' or n:m with 1 ≤ n < m ≤ {BLOCK_COLUMNS // 2}, not {text!r}")
        return cls(int(found[1]), int(found[2]))

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.kept / self.of


Zeros = float | Pattern
"""How many weights go, and where: a share of all, or a pattern."""


def smallest(scores: Tensor, share: float) -> Tensor:
    """bool, the shape of ``scores``: true for the lowest scores, exactly ``round(share · count)`` of them."""
    return _lowest(scores.reshape(1, -1), round(share * scores.numel())).view(scores.shape)


def _lowest(scores: Tensor, count: int) -> Tensor:
    """bool: true for the ``count`` lowest scores along the last dimension."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(-1, torch.topk(scores, count, dim=-1, largest=False, sorted=False).indices, value=True)


def _lowest_in_groups(scores: Tensor, pattern: Pattern) -> Tensor:
    groups = scores.reshape(scores.shape[0], -1, pattern.of)
    return _lowest(groups, pattern.of - pattern.kept).view(scores.shape)


def magnitude(weight: Tensor, zeros: Zeros) -> Tensor:
    """Zero the smallest weights of a matrix (rows, columns); the others stay as they are."""
    scores = weight.abs()
    cut = smallest(scores, zeros) if isinstance(zeros, float) else _lowest_in_groups(scores, zeros)
    return weight.masked_fill(cut, 0.0)


def wanda(weight: Tensor, squared_inputs: Tensor, zeros: Zeros) -> Tensor:
    """Zero the weights with the lowest ``|w| · ‖x‖`` of each row; the others stay (Sun et al. 2023, arXiv:2306.11695).

    Args:
        weight: float32 (rows, columns).
        squared_inputs: float32 (columns,), ``‖x‖²`` of each input over the calibration tokens: the diagonal of H.
        zeros: a share of each row, or a pattern.
    """
    scores = weight.abs() * squared_inputs.sqrt()
    # An input that is always zero makes its weights worthless, but those that are zero already go first.
    scores.masked_fill_(weight == 0, -1.0)
    if isinstance(zeros, Pattern):
        return weight.masked_fill(_lowest_in_groups(scores, zeros), 0.0)
    return weight.masked_fill(_lowest(scores, round(zeros * weight.shape[1])), 0.0)


class _Cut:
    """Settles a column to itself without its cut weights; the cut is chosen once a block of columns."""

    def __init__(self, already: Tensor, sparsity: float) -> None:
        self._already, self._sparsity = already, sparsity

    def settle(self, columns: Tensor, values: Tensor, errors: Tensor, upper: Tensor) -> None:
        already = self._already[:, columns]
        scores = (values / upper.diagonal()).square_().masked_fill_(already, -1.0)
        by_rows(cut_block, (values, errors, smallest(scores, self._sparsity) | already), (upper,))


class _CutGroups:
    """As ``_Cut`` for a pattern: the cut of each m columns is chosen when the first of them is reached."""

    def __init__(self, already: Tensor, pattern: Pattern) -> None:
        self._already, self._pattern = already, pattern

    def settle(self, columns: Tensor, values: Tensor, errors: Tensor, upper: Tensor) -> None:
        already = self._already[:, columns]
        by_rows(cut_groups, (values, errors, already), (upper, self._pattern.kept, self._pattern.of))


def sparsegpt(weight: Tensor, factor: Factor, zeros: Zeros, block: int = BLOCK_COLUMNS) -> Tensor:
    """Prune by SparseGPT: weights that are already zero stay zero and count.

    In each block of columns, or each m columns, the weights with the lowest ``w² / U_jj²`` go (Frantar & Alistarh 2023,
    algorithm 1), and the others take over what they did.

    Args:
        weight: float32 (rows, columns).
        factor: of the layer's inputs; columns from left to right where there is a pattern.
        zeros: zero share of every block of columns, or a pattern, whose m divides the columns.
        block: columns a block.
    """
    if isinstance(zeros, Pattern):
        return feed_back(weight, factor, _CutGroups(weight == 0, zeros), block // zeros.of * zeros.of)
    return feed_back(weight, factor, _Cut(weight == 0, zeros), block)
