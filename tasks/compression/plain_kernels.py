"""The loops of ``kernels`` in tensor operations, a column at a time for all rows together: what a GPU runs.

A GPU settles all rows of a column at once and has no use for a compiled loop over each; its cost is a handful of
launches a column. Operations are those of the compiled loops in the same order, so on a CPU both give the same bits,
which the tests compare. Arguments and results are those of the functions of the same name there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_block(
    values: Tensor,
    errors: Tensor,
    codes: Tensor,
    pruned: Tensor,
    scales: Tensor,
    zeros: Tensor,
    columns: Tensor,
    groups: Tensor,
    upper: Tensor,
    lowest: float,
    highest: float,
) -> None:
    scale, zero, cut = scales[:, groups], zeros[:, groups], pruned[:, columns]
    chosen = torch.empty_like(values)
    for i in range(values.shape[1]):
        kept = values[:, i].masked_fill(cut[:, i], 0.0)
        chosen[:, i] = (kept / scale[:, i] + zero[:, i]).round_().clamp_(float(lowest), float(highest))
        _settle(values, errors, i, (chosen[:, i] - zero[:, i]) * scale[:, i], upper)
    codes[:, columns] = chosen.to(codes.dtype)


def cut_block(values: Tensor, errors: Tensor, cut: Tensor, upper: Tensor) -> None:
    for i in range(values.shape[1]):
        _settle(values, errors, i, values[:, i].masked_fill(cut[:, i], 0.0), upper)


def cut_groups(values: Tensor, errors: Tensor, already: Tensor, upper: Tensor, kept: int, of: int) -> None:
    cut, diagonal = already.clone(), upper.diagonal()
    for i in range(values.shape[1]):
        if i % of == 0:
            scores = (values[:, i : i + of] / diagonal[i : i + of]).square_().masked_fill_(already[:, i : i + of], -1.0)
            first = scores.argsort(dim=1, stable=True)[:, : of - kept]
            cut[:, i : i + of] = already[:, i : i + of].scatter(1, first, value=True)
        _settle(values, errors, i, values[:, i].masked_fill(cut[:, i], 0.0), upper)


def _settle(values: Tensor, errors: Tensor, i: int, settled: Tensor, upper: Tensor) -> None:
    """Column ``i`` becomes ``settled``, (rows,); its error goes to the columns after it."""
    error = (values[:, i] - settled) / upper[i, i]
    errors[:, i] = error
    values[:, i:] -= error.unsqueeze(1) * upper[i, i:]
    values[:, i] = settled


def best_range(
    chosen: Tensor, values: Tensor, scales: Tensor, zeros: Tensor, importance: Tensor, lowest: float, highest: float
) -> None:
    least = torch.full_like(chosen, torch.inf, dtype=values.dtype)
    for k in range(scales.shape[2]):
        scale, zero = scales[:, :, k, None], zeros[:, :, k, None]
        codes = (values * (1.0 / scale) + zero).round_().clamp_(float(lowest), float(highest))
        total = ((codes - zero) * scale - values).square_().mul_(importance).sum(2)
        better = total < least
        least = torch.where(better, total, least)
        chosen.masked_fill_(better, k)
