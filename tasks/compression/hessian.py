"""What a linear layer's inputs tell: second moments, their inverse's factor, and error feedback with it.

Rounding or cutting weights changes a layer's output on inputs X (tokens, columns) by ``‖X (W - W')ᵀ‖²``, so all that
calibration needs to keep is ``H = Xᵀ X``. Three verbs: ``empty`` → ``accumulate`` → apply (``feed_back``).

Sources: Frantar & Alistarh, SparseGPT (arXiv:2301.00774), algorithm 1; Frantar et al., GPTQ (arXiv:2210.17323),
section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.compression.device import HOST
from tasks.errors import SlimlineError

BLOCK_COLUMNS = 128
_MOST_DAMPING = 10.0
_TILE = 256


@dataclass(frozen=True)
class Factor:
    """Upper triangular U with ``UᵀU = (H + λI)⁻¹``, columns taken in some order.

    Attributes:
        upper: float32 (columns, columns), rows and columns in the order of ``order``.
        order: int64 (columns,), the order in which columns are settled.
        damping: λ as a share of the mean of H's diagonal, the one that worked.
        fallback: what had to be done beyond what was asked, or none.
    """

    upper: Tensor
    order: Tensor
    damping: float
    fallback: str | None


class InputStatistics:
    """What layers that read the same input need to know of it.

    Attributes:
        gram: H, the sum of ``xᵀ x`` over tokens, float32 (columns, columns).
        tokens: how many were added.
    """

    def __init__(self, gram: Tensor, tokens: int = 0) -> None:
        self._gram, self.tokens = gram, tokens
        self._mirrored = True
        self._factors: dict[tuple[float, bool], Factor] = {}

    @property
    def gram(self) -> Tensor:
        if not self._mirrored:
            for tile, rest in _tiles(self._gram):
                self._gram[rest, tile] = self._gram[tile, rest].T
            self._mirrored = True
        return self._gram

    def add(self, rows: Tensor) -> None:
        """See ``accumulate``."""
        for tile, _ in _tiles(self._gram):  # the upper triangle alone is nearly half of the work
            self._gram[tile, tile.start :].addmm_(rows[:, tile].T, rows[:, tile.start :])
        self.tokens += rows.shape[0]
        self._mirrored = False
        self._factors.clear()

    def to(self, device: torch.device) -> InputStatistics:
        """The same on ``device``; itself where it is there already."""
        return self if self._gram.device == device else InputStatistics(self.gram.to(device), self.tokens)

    def factor(self, damping: float, *, largest_first: bool = False) -> Factor:
        """``inverse_factor`` of these statistics, computed once for all the layers that share them."""
        wanted = damping, largest_first
        if wanted not in self._factors:
            self._factors[wanted] = inverse_factor(self, damping, largest_first=largest_first)
        return self._factors[wanted]


def empty(columns: int, device: torch.device = HOST) -> InputStatistics:
    """Statistics of no token yet, for layers with ``columns`` inputs."""
    return InputStatistics(torch.zeros(columns, columns, device=device))


def accumulate(statistics: InputStatistics, inputs: Tensor) -> None:
    """Add inputs (..., columns), float32, in place."""
    statistics.add(inputs.reshape(-1, inputs.shape[-1]))


def _tiles(gram: Tensor) -> list[tuple[slice, slice]]:
    """Ranges of columns, and for each the columns after it."""
    return [(slice(first, first + _TILE), slice(first + _TILE, None)) for first in range(0, gram.shape[0], _TILE)]


def inverse_factor(statistics: InputStatistics, damping: float, *, largest_first: bool = False) -> Factor:
    """Factor the damped inverse of H. Damping grows tenfold until H is positive definite; that is said in ``fallback``.

    With P the order reversed and ``P(H + λI)P = LLᵀ``, U is ``P L⁻¹ P``: one Cholesky factorization and one triangular
    inverse, and no explicit inverse to factor again.

    Args:
        statistics: of at least one token.
        damping: share of the mean of H's diagonal, above 0.
        largest_first: settle columns with the largest inputs first, while most others are open to take up their error
            (``act-order`` in the GPTQ authors' code); else from left to right.

    Raises:
        SlimlineError: H is not positive definite even with ten times its own mean added.
    """
    gram, diagonal = statistics.gram, statistics.gram.diagonal()
    mean = float(diagonal.mean())
    ascending = torch.arange(len(diagonal), device=gram.device)
    order = torch.argsort(diagonal, descending=True, stable=True) if largest_first else ascending
    notes = []
    silent = int((diagonal == 0).sum())
    if silent:
        notes.append(f"{silent} input columns are zero on every calibration token")
    tried = damping
    while tried <= max(_MOST_DAMPING, damping):
        backwards = order.flip(0)
        damped = gram.index_select(0, backwards).index_select(1, backwards)
        damped.diagonal().add_(tried * mean if mean > 0 else 1.0)
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped  # as large as H, and so is all that follows
        if not failed and bool(torch.isfinite(lower).all()):
            upper = torch.linalg.solve_triangular(lower, torch.eye(lower.shape[0], device=gram.device), upper=False)
            del lower
            upper = upper.flip(0, 1).contiguous()
            if tried != damping:
                notes.append(f"damping raised from {damping:g} to {tried:g}: the Hessian was not positive definite")
            return Factor(upper, order, tried, "; ".join(notes) or None)
        tried *= 10
    raise SlimlineError(
        "the calibration inputs of a layer give no usable Hessian",
        observed=f"not positive definite with damping {damping:g} to {tried / 10:g}",
        limit=f"damping up to {_MOST_DAMPING:g}",
        remedy="use more calibration blocks, or other text",
    )


class Columns(Protocol):
    """Decides what weight columns become, a block of them at a time."""

    def settle(self, columns: Tensor, values: Tensor, errors: Tensor, upper: Tensor) -> None:
        """Settle a block: its column numbers (n,), and U there (n, n).

        ``values`` (rows, n), what the columns have become, is replaced by their final values; ``errors`` (rows, n) is
        filled with each column's ``(value - final) / U_jj`` at the time it is settled.
        """
        ...


def feed_back(weight: Tensor, factor: Factor, columns: Columns, block: int = BLOCK_COLUMNS) -> Tensor:
    """Settle columns in the factor's order; each one's error is spread over those still open (SparseGPT, equation 7).

    Args:
        weight: float32 (rows, columns); left as it is.
        factor: of the layer's inputs.
        columns: what to settle each column to.
        block: columns whose updates are applied at once to the rest (lazy batch updates, GPTQ section 3.3).

    Returns:
        The settled weight, float32 (rows, columns).
    """
    work = weight.index_select(1, factor.order)
    for first in range(0, work.shape[1], block):
        last = min(first + block, work.shape[1])
        values, upper = work[:, first:last].contiguous(), factor.upper[first:last, first:last].contiguous()
        errors = torch.empty_like(values)
        columns.settle(factor.order[first:last], values, errors, upper)
        work[:, first:last] = values
        work[:, last:].addmm_(errors, factor.upper[first:last, last:], alpha=-1)
    return work.index_select(1, torch.argsort(factor.order))


def output_error(weight: Tensor, changed: Tensor, gram: Tensor) -> float:
    """Relative squared error of the output: ``tr((W - W')H(W - W')ᵀ) / tr(W H Wᵀ)``; 0 where the output is always 0."""
    size = _squared(weight, gram)
    return max(_squared(weight - changed, gram), 0.0) / size if size > 0 else 0.0


def _squared(weight: Tensor, gram: Tensor) -> float:
    """``tr(W H Wᵀ)``; H is symmetric, so what is beside its diagonal tiles counts twice."""
    total = 0.0
    for tile, rest in _tiles(gram):
        part = weight[:, tile]
        total += float(torch.sum((part @ gram[tile, tile]) * part, dtype=torch.float64))
        total += 2 * float(torch.sum((part @ gram[tile, rest]) * weight[:, rest], dtype=torch.float64))
    return total
