"""Round weights to small integers: each on its own, or with the error of each column fed to the next (GPTQ)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.compression.hessian import Factor, feed_back
from tasks.compression.kernels import best_range, by_rows, round_block
from tasks.compression.packing import PackedLinear, Packing

# Parts of a group's full range that are tried as the grid's range.
_SHRINKS = tuple(1.0 - 0.03 * step for step in range(20))


def choose_grids(
    weight: Tensor, packing: Packing, dtype: torch.dtype, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each group the scale and zero point with the least squared rounding error, among ranges from full down.

    Scales are rounded to ``dtype`` first, so the error that is compared is the error of what will be stored.

    Args:
        weight: float32 (rows, columns); a group size other than 0 divides the columns.
        packing: the grid's kind.
        dtype: how scales are stored.
        importance: float32 (columns,), weight of each column's error; alike when none.

    Returns:
        Scales, float32 (rows, groups), above 0, and zero points, float32 (rows, groups), whole numbers of the grid.
    """
    values = weight.reshape(weight.shape[0], -1, packing.columns_a_group(weight.shape[1]))
    low, high = values.amin(2).clamp_(max=0), values.amax(2).clamp_(min=0)
    shrinks = torch.tensor(_SHRINKS if packing.bits < 8 else _SHRINKS[:1]).to(weight.device)
    scales, zeros = _grids(low.unsqueeze(2) * shrinks, high.unsqueeze(2) * shrinks, packing, dtype)
    chosen = torch.zeros(low.shape, dtype=torch.int64, device=weight.device)
    if len(shrinks) > 1:
        weights = torch.ones(values.shape[1:], device=weight.device) if importance is None else importance
        weights = weights.reshape(values.shape[1:])
        # Scaled, so that sums of squares stay within float32 whatever the inputs' size.
        weights = (weights / weights.amax().clamp_(min=torch.finfo(torch.float32).tiny)).contiguous()
        by_rows(best_range, (chosen, values, scales, zeros), (weights, *_bounds(packing)))
    picked = chosen.unsqueeze(2)
    return scales.gather(2, picked).squeeze(2), zeros.gather(2, picked).squeeze(2)


def _grids(low: Tensor, high: Tensor, packing: Packing, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if packing.symmetric:
        scale, zero = torch.maximum(-low, high) / packing.highest, torch.zeros_like(low)
    else:
        # Room for one code below the zero point even where no weight is negative: version 1 of the GPTQ format stores
        # zero points less one and has no -1.
        steps = packing.highest - packing.lowest
        scale = torch.maximum((high - low) / steps, high / (steps - 1))
    # The smallest positive float16: a group of zeros needs a scale too, and zero would divide.
    scale = scale.clamp_(2.0**-24, torch.finfo(dtype).max).to(dtype).to(torch.float32)
    if not packing.symmetric:
        zero = torch.round(packing.lowest - low / scale).clamp_(packing.lowest + 1, packing.highest)
    return scale, zero


def _bounds(packing: Packing) -> tuple[np.float32, np.float32]:
    return np.float32(packing.lowest), np.float32(packing.highest)


class _Rounding:
    """Settles columns to the nearest points of their groups' grids, chosen from the weights as they came."""

    def __init__(self, weight: Tensor, packing: Packing, importance: Tensor | None) -> None:
        self._packing, self._dtype, self._pruned = packing, scale_dtype(weight), weight == 0
        self._scales, self._zeros = choose_grids(weight, packing, self._dtype, importance)
        self._codes = torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format)

    def settle(self, columns: Tensor, values: Tensor, errors: Tensor, upper: Tensor) -> None:
        groups = columns // self._packing.columns_a_group(self._codes.shape[1])
        by_rows(
            round_block,
            (values, errors, self._codes, self._pruned, self._scales, self._zeros),
            (columns, groups, upper, *_bounds(self._packing)),
        )

    def packed(self) -> PackedLinear:
        return _packed(self._codes, self._scales, self._zeros, self._packing, self._dtype)


def _packed(codes: Tensor, scales: Tensor, zeros: Tensor, packing: Packing, dtype: torch.dtype) -> PackedLinear:
    zero = None if packing.symmetric else zeros.to(torch.int8)
    size = packing.columns_a_group(codes.shape[1])
    return PackedLinear(codes, scales.to(dtype), zero, packing.bits, size, packing.symmetric)


def scale_dtype(weight: Tensor) -> torch.dtype:
    """float16, or float32 for a matrix whose scales could leave float16's range."""
    return torch.float16 if float(weight.abs().max()) < torch.finfo(torch.float16).max else torch.float32


def round_to_nearest(weight: Tensor, packing: Packing) -> PackedLinear:
    """Round every weight (rows, columns) to its nearest point; zeros stay zero. The reference that GPTQ must beat."""
    dtype = scale_dtype(weight)
    scales, zeros = choose_grids(weight, packing, dtype)
    values = weight.reshape(*scales.shape, -1) / scales.unsqueeze(2) + zeros.unsqueeze(2)
    codes = values.round_().clamp_(packing.lowest, packing.highest).to(torch.int8).view(weight.shape)
    return _packed(codes, scales, zeros, packing, dtype)


def gptq(weight: Tensor, factor: Factor, packing: Packing, importance: Tensor | None = None) -> PackedLinear:
    """Quantize by GPTQ (Frantar et al. 2022, algorithm 1), columns in the factor's order.

    Scales are chosen before the first column is settled, so that any order gives the same file format: static groups,
    in the words of the authors' later code. Weights that are zero stay exactly zero; what they would have become is fed
    to the columns after them.

    Args:
        weight: float32 (rows, columns); a group size other than 0 divides the columns.
        factor: of the layer's inputs; ``largest_first`` loses least.
        packing: the grid's kind.
        importance: float32 (columns,), see ``choose_grids``; the mean square of each input fits.
    """
    rounding = _Rounding(weight, packing, importance)
    feed_back(weight, factor, rounding)
    return rounding.packed()
