"""Round weights to small integers: each on its own, or with the error of each column fed to the next (GPTQ)."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.compression.hessian import Factor, feed_back
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
    """Settles a column to the nearest points of its group's grid; grids are chosen from the weights as they came."""

    def __init__(self, weight: Tensor, packing: Packing, dtype: torch.dtype, importance: Tensor | None) -> None:
        self._packing, self._dtype = packing, dtype
        values = weight.T.contiguous()
        self._pruned = values == 0
        self.codes = torch.empty_like(values)
        parts = [slice(first, first + packing.group_size) for first in range(0, len(values), packing.group_size)]
        grids = [choose_grid(values[p], packing, dtype, None if importance is None else importance[p]) for p in parts]
        self._scales, self._zeros = [scale for scale, _ in grids], [zero for _, zero in grids]

    def open_block(self, columns: Tensor, values: Tensor, scales: Tensor) -> None:
        """Nothing to see: groups, not blocks, have grids."""

    def settle(self, column: int, value: Tensor) -> Tensor:
        group = column // self._packing.group_size
        scale, zero = self._scales[group], self._zeros[group]
        # A pruned weight has taken up errors of earlier columns; as 0 it gets the zero point and passes them on.
        kept = value.masked_fill(self._pruned[column], 0.0)
        codes = _codes(kept, scale, zero, self._packing, self.codes[column])
        return (codes if self._packing.symmetric else codes - zero) * scale

    def packed(self) -> PackedLinear:
        p = self._packing
        zero = None if p.symmetric else torch.stack(self._zeros, dim=1).to(torch.int8)
        scale = torch.stack(self._scales, dim=1).to(self._dtype)
        return PackedLinear(self.codes.T.to(torch.int8).contiguous(), scale, zero, p.bits, p.group_size, p.symmetric)


def scale_dtype(weight: Tensor) -> torch.dtype:
    """float16, or float32 for a matrix whose scales could leave float16's range."""
    return torch.float16 if float(weight.abs().max()) < torch.finfo(torch.float16).max else torch.float32


def round_to_nearest(weight: Tensor, packing: Packing) -> PackedLinear:
    """Round every weight (rows, columns) to its nearest point; zeros stay zero. The reference that GPTQ must beat."""
    rounding = _Rounding(weight, packing, scale_dtype(weight), None)
    for column, value in enumerate(weight.T.contiguous()):
        rounding.settle(column, value)
    return rounding.packed()


def gptq(weight: Tensor, factor: Factor, packing: Packing, importance: Tensor | None = None) -> PackedLinear:
    """Quantize by GPTQ (Frantar et al. 2022, algorithm 1), columns in the factor's order.

    Scales are chosen before the first column is settled, so that any order gives the same file format: static groups,
    in the words of the authors' later code. Weights that are zero stay exactly zero; what they would have become is fed
    to the columns after them.

    Args:
        weight: float32 (rows, columns); ``packing.group_size`` divides the columns.
        factor: of the layer's inputs; ``largest_first`` loses least.
        packing: the grid's kind.
        importance: float32 (columns,), see ``choose_grid``; the mean square of each input fits.
    """
    rounding = _Rounding(weight, packing, scale_dtype(weight), importance)
    feed_back(weight, factor, rounding)
    return rounding.packed()
