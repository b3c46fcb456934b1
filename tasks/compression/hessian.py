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

from tasks.errors import SlimlineError

BLOCK_COLUMNS = 128
_MOST_DAMPING = 10.0


@dataclass(frozen=True)
class Factor:
    """Upper triangular U with ``UᵀU = (H + λI)⁻¹``.

    Attributes:
        upper: float32 (columns, columns).
        damping: λ as a share of the mean of H's diagonal, the one that worked.
        fallback: what had to be done beyond what was asked, or none.
    """

    upper: Tensor
    damping: float
    fallback: str | None


@dataclass
class InputStatistics:
    """What layers that read the same input need to know of it.

    Attributes:
        gram: H, the sum of ``xᵀ x`` over tokens, float32 (columns, columns).
        tokens: how many were added.
    """

    gram: Tensor
    tokens: int = 0
    _factor: tuple[float, Factor] | None = None

    def factor(self, damping: float) -> Factor:
        """``inverse_factor`` of these statistics, computed once for all the layers that share them."""
        if self._factor is None or self._factor[0] != damping:
            self._factor = (damping, inverse_factor(self, damping))
        return self._factor[1]


def empty(columns: int) -> InputStatistics:
    """Statistics of no token yet, for layers with ``columns`` inputs."""
    return InputStatistics(torch.zeros(columns, columns))


def accumulate(statistics: InputStatistics, inputs: Tensor) -> None:
    """Add inputs (..., columns), float32, in place."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    statistics.gram.addmm_(rows.T, rows)
    statistics.tokens += rows.shape[0]
    statistics._factor = None


def inverse_factor(statistics: InputStatistics, damping: float) -> Factor:
    """Factor the damped inverse of H. Damping grows tenfold until H is positive definite; that is said in ``fallback``.

    With P the order reversed and ``P(H + λI)P = LLᵀ``, U is ``P L⁻¹ P``: one Cholesky factorization and one triangular
    inverse, and no explicit inverse to factor again.

    Args:
        statistics: of at least one token.
        damping: share of the mean of H's diagonal, above 0.

    Raises:
        SlimlineError: H is not positive definite even with ten times its own mean added.
    """
    mean = float(statistics.gram.diagonal().mean())
    notes = []
    silent = int((statistics.gram.diagonal() == 0).sum())
    if silent:
        notes.append(f"{silent} input columns are zero on every calibration token")
    tried = damping
    while tried <= max(_MOST_DAMPING, damping):
        damped = statistics.gram.flip(0, 1)
        damped.diagonal().add_(tried * mean if mean > 0 else 1.0)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed and bool(torch.isfinite(lower).all()):
            identity = torch.eye(lower.shape[0])
            upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1).contiguous()
            if tried != damping:
                notes.append(f"damping raised from {damping:g} to {tried:g}: the Hessian was not positive definite")
            return Factor(upper, tried, "; ".join(notes) or None)
        tried *= 10
    raise SlimlineError(
        "the calibration inputs of a layer give no usable Hessian",
        observed=f"not positive definite with damping {damping:g} to {tried / 10:g}",
        limit=f"damping up to {_MOST_DAMPING:g}",
        remedy="use more calibration blocks, or other text",
    )


class Columns(Protocol):
    """Decides what a weight column becomes. Matrices are transposed: a row is one input column of the layer."""

    def open_block(self, first: int, values: Tensor, scales: Tensor) -> None:
        """See the block that starts at column ``first``: values (n, rows), the diagonal of U there (n,)."""
        ...

    def settle(self, column: int, ahead: Tensor) -> Tensor:
        """The final value (rows,) of ``column``; ``ahead`` (m, rows) begins with it and ends with its block."""
        ...


def feed_back(weight: Tensor, factor: Factor, columns: Columns, block: int = BLOCK_COLUMNS) -> Tensor:
    """Settle columns from left to right; each one's error is spread over those still open (SparseGPT, equation 7).

    Args:
        weight: float32 (rows, columns); left as it is.
        factor: of the layer's inputs.
        columns: what to settle each column to.
        block: columns whose updates are applied at once to the rest (lazy batch updates, GPTQ section 3.3).

    Returns:
        The settled weight, float32 (rows, columns).
    """
    work = weight.T.contiguous()
    count = work.shape[0]
    for first in range(0, count, block):
        last = min(first + block, count)
        values, upper = work[first:last], factor.upper[first:last, first:last]
        columns.open_block(first, values, upper.diagonal())
        errors = torch.empty_like(values)
        # Per column everything is a handful of short vectors: fewer and in-place operations are what makes it fast.
        steps = zip(values.unbind(0), errors.unbind(0), upper.diagonal().tolist(), strict=True)
        for i, (value, error, scale) in enumerate(steps):
            settled = columns.settle(first + i, values[i:])
            torch.sub(value, settled, out=error).div_(scale)
            value.copy_(settled)
            values[i + 1 :].addr_(upper[i, i + 1 :], error, alpha=-1)
        work[last:].addmm_(factor.upper[first:last, last:].T, errors, alpha=-1)
    return work.T.contiguous()


def output_error(weight: Tensor, changed: Tensor, gram: Tensor) -> float:
    """Relative squared error of the output: ``tr((W - W')H(W - W')ᵀ) / tr(W H Wᵀ)``; 0 where the output is always 0."""
    size = float(torch.sum((weight @ gram) * weight, dtype=torch.float64))
    lost = weight - changed
    error = float(torch.sum((lost @ gram) * lost, dtype=torch.float64))
    return max(error, 0.0) / size if size > 0 else 0.0
