"""Round weights to small integers: each on its own, or with the error of each column fed to the next (GPTQ)."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.compression.hessian import BLOCK_COLUMNS, Factor, feed_back
from tasks.compression.packing import PackedLinear, Packing

# Parts of a group's full range that are tried as the grid's range.
_SHRINKS = tuple(1.0 - 0.03 * step for step in range(20))


def choose_grid(
    values: Tensor, packing: Packing, dtype: torch.dtype, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The scale and zero point with the least squared rounding error, among ranges from full down to a part.

    Scales are rounded to ``dtype`` first, so the error that is compared is the error of what will be stored.

    Args:
        values: float32 (columns, rows), one group of input columns.
        packing: the grid's kind.
        dtype: how scales are stored.
        importance: float32 (columns,), weight of each column's error; alike when none.

    Returns:
        Scale, float32 (rows,), above 0, and zero point, float32 (rows,), a whole number within the grid.
    """
    low, high = values.amin(0).clamp_(max=0), values.amax(0).clamp_(min=0)
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), torch.zeros_like(low)
    buffer = torch.empty_like(values)
    for shrink in _SHRINKS if packing.bits < 8 else _SHRINKS[:1]:
        tried, origin = _grid(low * shrink, high * shrink, packing, dtype)
        error = _settle(values, tried, origin, packing, buffer).sub_(values).square_()
        total = error.sum(0) if importance is None else importance @ error
        better = total < best
        best = torch.where(better, total, best)
        scale, zero = torch.where(better, tried, scale), torch.where(better, origin, zero)
    return scale, zero


def _grid(low: Tensor, high: Tensor, packing: Packing, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if packing.symmetric:
        scale, zero = torch.maximum(-low, high) / packing.highest, torch.zeros_like(low)
    else:
        scale = (high - low) / (packing.highest - packing.lowest)
    # The smallest positive float16: a group of zeros needs a scale too, and zero would divide.
    scale = scale.clamp_(2.0**-24, torch.finfo(dtype).max).to(dtype).to(torch.float32)
    if not packing.symmetric:
        zero = torch.round(packing.lowest - low / scale).clamp_(packing.lowest, packing.highest)
    return scale, zero


def _codes(values: Tensor, scale: Tensor, zero: Tensor, packing: Packing, out: Tensor) -> Tensor:
    """Nearest codes of values (..., rows) as float32, into ``out``; 0 becomes the zero point itself."""
    torch.div(values, scale, out=out)
    if not packing.symmetric:
        out.add_(zero)
    return out.round_().clamp_(packing.lowest, packing.highest)


def _settle(values: Tensor, scale: Tensor, zero: Tensor, packing: Packing, out: Tensor) -> Tensor:
    """The grid's nearest points to values (..., rows), into ``out``."""
    codes = _codes(values, scale, zero, packing, out)
    return (codes if packing.symmetric else codes.sub_(zero)).mul_(scale)


class _Rounding:
    """Settles a column to the nearest points of a grid, chosen from the open weights at the start of each group."""

    def __init__(self, weight: Tensor, packing: Packing, dtype: torch.dtype, importance: Tensor | None) -> None:
        rows, columns = weight.shape
        self._packing, self._dtype, self._importance = packing, dtype, importance
        self._pruned = (weight == 0).T.contiguous()
        self.codes = torch.empty(columns, rows)
        self.scale = torch.empty(columns // packing.group_size, rows)
        self.zero = torch.empty_like(self.scale)

    def open_block(self, first: int, values: Tensor, scales: Tensor) -> None:
        """Nothing to see: groups, not blocks, have grids."""

    def settle(self, column: int, ahead: Tensor) -> Tensor:
        group, offset = divmod(column, self._packing.group_size)
        if offset == 0:
            span = slice(column, column + self._packing.group_size)
            members = ahead[: self._packing.group_size].masked_fill(self._pruned[span], 0.0)
            importance = None if self._importance is None else self._importance[span]
            self.scale[group], self.zero[group] = choose_grid(members, self._packing, self._dtype, importance)
        scale, zero = self.scale[group], self.zero[group]
        # A pruned weight has taken up errors of earlier columns; as 0 it gets the zero point and passes them on.
        kept = ahead[0].masked_fill(self._pruned[column], 0.0)
        codes = _codes(kept, scale, zero, self._packing, self.codes[column])
        return (codes if self._packing.symmetric else codes - zero) * scale

    def packed(self) -> PackedLinear:
        p = self._packing
        zero = None if p.symmetric else self.zero.T.to(torch.int8).contiguous()
        scale = self.scale.T.to(self._dtype).contiguous()
        return PackedLinear(self.codes.T.to(torch.int8).contiguous(), scale, zero, p.bits, p.group_size, p.symmetric)


def scale_dtype(weight: Tensor) -> torch.dtype:
    """float16, or float32 for a matrix whose scales could leave float16's range."""
    return torch.float16 if float(weight.abs().max()) < torch.finfo(torch.float16).max else torch.float32


def round_to_nearest(weight: Tensor, packing: Packing) -> PackedLinear:
    """Round every weight (rows, columns) to its nearest point; zeros stay zero. The reference that GPTQ must beat."""
    rounding = _Rounding(weight, packing, scale_dtype(weight), None)
    values = weight.T.contiguous()
    for column in range(values.shape[0]):
        rounding.settle(column, values[column:])
    return rounding.packed()


def gptq(weight: Tensor, factor: Factor, packing: Packing, importance: Tensor | None = None) -> PackedLinear:
    """Quantize by GPTQ (Frantar et al. 2022, algorithm 1): columns in order, scales from the weights as they are then.

    Weights that are zero stay exactly zero; what they would have become is fed to the columns after them.

    Args:
        weight: float32 (rows, columns); ``packing.group_size`` divides the columns.
        factor: of the layer's inputs.
        packing: the grid's kind.
        importance: float32 (columns,), see ``choose_grid``.
    """
    rounding = _Rounding(weight, packing, scale_dtype(weight), importance)
    # A block holds whole groups, because a grid is chosen from a group whose updates are all applied.
    block = packing.group_size * max(1, BLOCK_COLUMNS // packing.group_size)
    feed_back(weight, factor, rounding, block)
    return rounding.packed()
