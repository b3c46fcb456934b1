"""Loops over the rows of a weight matrix, compiled for the CPU: what the column recurrences of GPTQ and SparseGPT cost.

A row never needs another row, so it is settled column by column while it lies in the processor's cache, and rows are
shared out to threads that meet only at the end. Written with tensor operations the same recurrence is a handful of
short operations a column, each with its own start, memory traffic and meeting of threads; here it is several
times as fast (``benchmarks.compression_stages``). The arithmetic is float32, within a row always in the same order, so
the result does not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from torch import Tensor

from tasks.compression import plain_kernels

Kernel = TypeVar("Kernel", bound=Callable[..., None])
_FEWEST_ROWS = 16  # a thread is not worth starting for less


def by_rows(kernel: Callable[..., None], split: tuple[Tensor, ...], whole: tuple[Any, ...]) -> None:
    """Run ``kernel(*split, *whole)``, the first dimension of every tensor of ``split`` shared out to torch's threads.

    Tensors that are not on the CPU get the function of the same name in ``plain_kernels``.

    Args:
        kernel: of this module; writes into its arguments.
        split: tensors on one device with the same first dimension.
        whole: tensors and numbers that every thread gets as they are.
    """
    if not split[0].is_cpu:
        getattr(plain_kernels, kernel.__name__.removeprefix("_"))(*split, *whole)
        return
    rows = split[0].shape[0]
    parts = max(1, min(torch.get_num_threads(), rows // _FEWEST_ROWS))
    bounds = [rows * part // parts for part in range(parts + 1)]
    shared = [value.numpy() if isinstance(value, Tensor) else value for value in whole]
    arrays = [tensor.numpy() for tensor in split]

    def work(part: int) -> None:
        kernel(*(array[bounds[part] : bounds[part + 1]] for array in arrays), *shared)

    if parts == 1:
        work(0)
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, range(parts)))


def _compiled(function: Kernel, *allowed: str) -> Kernel:
    # IEEE division as torch has it, and no GIL. Not cached on disk: it takes a second, and a home may be read-only.
    return cast(Kernel, numba.njit(nogil=True, error_model="numpy", fastmath=set(allowed))(function))


@_compiled
def round_block(
    values: Any,
    errors: Any,
    codes: Any,
    pruned: Any,
    scales: Any,
    zeros: Any,
    columns: Any,
    groups: Any,
    upper: Any,
    lowest: Any,
    highest: Any,
) -> None:
    """Round a block's columns one after another, spreading each one's error over the columns after it.

    Args:
        values: float32 (rows, n); in: what the columns have become, out: the grid's points.
        errors: float32 (rows, n), out: ``(value - settled) / U_jj``, for the columns after the block.
        codes: int8 (rows, all columns), out at ``columns``.
        pruned: bool (rows, all columns): such a weight has taken up errors of earlier columns; as 0 it gets the zero
            point's code and passes them on.
        scales, zeros: float32 (rows, groups), the grids.
        columns, groups: int64 (n,), which columns these are, and each one's group.
        upper: float32 (n, n), the factor's block.
        lowest, highest: float32, the codes' range.
    """
    for row in range(values.shape[0]):
        value = values[row]
        for i in range(value.size):
            column = columns[i]
            scale, zero = scales[row, groups[i]], zeros[row, groups[i]]
            kept = np.float32(0.0) if pruned[row, column] else value[i]
            code = min(max(np.rint(kept / scale + zero), lowest), highest)
            settled = (code - zero) * scale
            error = (value[i] - settled) / upper[i, i]
            codes[row, column], errors[row, i] = code, error
            # Views that begin at 0: with an offset in the index the compiler cannot use vector instructions.
            rest, factor = value[i:], upper[i, i:]
            for j in range(rest.size):
                rest[j] -= error * factor[j]
            value[i] = settled


@_compiled
def cut_block(values: Any, errors: Any, cut: Any, upper: Any) -> None:
    """As ``round_block`` for pruning: columns become themselves, but for the weights in ``cut``, bool (rows, n)."""
    for row in range(values.shape[0]):
        value = values[row]
        for i in range(value.size):
            settled = np.float32(0.0) if cut[row, i] else value[i]
            error = (value[i] - settled) / upper[i, i]
            errors[row, i] = error
            if error != 0:
                rest, factor = value[i:], upper[i, i:]
                for j in range(rest.size):
                    rest[j] -= error * factor[j]
            value[i] = settled


@_compiled
def cut_groups(values: Any, errors: Any, already: Any, upper: Any, kept: int, of: int) -> None:
    """As ``cut_block`` where of every ``of`` columns the ``kept`` best stay, chosen as the first of them is reached.

    Weights in ``already``, bool (rows, n), go first and stay zero even where more of them are zero than have to be.
    """
    cut = np.empty(of, np.bool_)
    for row in range(values.shape[0]):
        value = values[row]
        for i in range(value.size):
            place = i % of
            if place == 0:
                for k in range(of):
                    cut[k] = already[row, i + k]
                for _ in range(of - kept - int(cut.sum())):
                    lowest, at = np.float32(np.inf), -1
                    for k in range(of):
                        score = (value[i + k] / upper[i + k, i + k]) ** 2
                        if not cut[k] and (score < lowest or at < 0):
                            lowest, at = score, k
                    cut[at] = True
            settled = np.float32(0.0) if cut[place] else value[i]
            error = (value[i] - settled) / upper[i, i]
            errors[row, i] = error
            if error != 0:
                rest, factor = value[i:], upper[i, i:]
                for j in range(rest.size):
                    rest[j] -= error * factor[j]
            value[i] = settled


def _best_range(chosen: Any, values: Any, scales: Any, zeros: Any, importance: Any, lowest: Any, highest: Any) -> None:
    """Which of several grids has the least squared rounding error, for each group of each row; the first of equals.

    Args:
        chosen: int64 (rows, groups), out.
        values: float32 (rows, groups, size).
        scales, zeros: float32 (rows, groups, tries).
        importance: float32 (groups, size), weight of each column's error.
        lowest, highest: float32, the codes' range.
    """
    for row in range(values.shape[0]):
        for group in range(values.shape[1]):
            value, weight = values[row, group], importance[group]
            least = np.float32(np.inf)
            for k in range(scales.shape[2]):
                scale, zero = scales[row, group, k], zeros[row, group, k]
                inverse, total = np.float32(1.0) / scale, np.float32(0.0)
                for column in range(value.size):
                    code = min(max(np.rint(value[column] * inverse + zero), lowest), highest)
                    error = (code - zero) * scale - value[column]
                    total += weight[column] * error * error
                if total < least:
                    least, chosen[row, group] = total, k


# A group's sum may be taken in any order, which vector instructions need: it only chooses among grids.
best_range = _compiled(_best_range, "reassoc", "nsz", "contract")
