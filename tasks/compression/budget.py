"""Pruning and quantization where each layer has a value of its own: what is measured first, then divided, then done.

The dense model is run once with gradients on some calibration tokens (``sensitivity``), each layer is tried with every
candidate on all of them, one budget is divided among the layers by what each candidate is expected to cost the model
(``allocation``), and the usual pass (``layerwise``) follows. With ``partial`` the division is kept, and until then what
was measured (``measuring``), so that a pass that is started again does not measure again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from tasks.compression.allocation import Curve, choose, divide
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import (
    BITS,
    check_calibration,
    check_choice,
    check_mean_bits,
    check_recipe,
    check_zeros,
    stored_bits,
)
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.limits import check_language_model, check_packable
from tasks.compression.measuring import measured
from tasks.compression.packing import Packing
from tasks.compression.resuming import Partial
from tasks.compression.sensitivity import Errors
from tasks.compression.transforms import Prune, Quantize
from tasks.contracts import LayerReport

REACH = 0.2
"""A layer's zero share differs from the mean by at most this."""

Number = TypeVar("Number", int, float)


def prune_by_sensitivity(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    sparsity: float,
    damping: float = 0.01,
    seed: int = 0,
    partial: Partial | None = None,
    keep_statistics: bool = False,
) -> Iterator[LayerReport]:
    """As ``layerwise.prune_folder`` without a pattern, with a zero share for each layer and ``sparsity`` over all.

    The share of each layer is within ``REACH`` of the mean, and of what is left above and below it. ``seed`` is that of
    the labels that gradients are taken of.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations or gradients are not finite, or no damping makes a Hessian usable.
    """
    check_choice("pruning method", method, ("sparsegpt", "wanda", "magnitude"))
    check_zeros(sparsity, "unstructured")
    check_recipe(source, prune=True)
    check_language_model(source)
    checkpoint = Checkpoint(source)
    check_calibration(checkpoint, tokens)

    def measure() -> dict[str, float]:
        levels = _levels(sparsity)
        found = measured(checkpoint, tokens, [Prune(method, level, damping) for level in levels], seed, partial)
        return _shares(checkpoint, found, levels, sparsity)

    def work() -> Iterator[LayerReport]:
        yield from prune_folder(
            source,
            destination,
            tokens,
            method=method,
            sparsity=sparsity,
            shares=_once(partial, measure),
            damping=damping,
            seed=seed,
            partial=partial,
            keep_statistics=keep_statistics,
        )

    return work()


def quantize_to_budget(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    mean_bits: float,
    group_size: int,
    symmetric: bool = True,
    act_order: bool = True,
    damping: float = 0.01,
    seed: int = 0,
    partial: Partial | None = None,
) -> Iterator[LayerReport]:
    """As ``layerwise.quantize_folder``, with 2, 3, 4 or 8 bits for each layer.

    Layers of one input differ too, though engines like to multiply them as one matrix. Measured on SmolLM2-135M (GPTQ,
    groups of 64): alike they lose a KL of 0.341 at 3.75 bits a weight and 0.174 at 4.25; by themselves 0.281 and 0.154.

    Args:
        mean_bits: bits a weight over all layers together, scales counted, that are not exceeded: 4 bits in groups of 64
            are 4.25.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations or gradients are not finite, or no damping makes a Hessian usable.
    """
    check_choice("quantization method", method, ("gptq", "rtn"))
    check_recipe(source, group_size=group_size or None)
    check_mean_bits(source, mean_bits, group_size, symmetric=symmetric)
    check_language_model(source)
    checkpoint = Checkpoint(source)
    check_packable(checkpoint)
    check_calibration(checkpoint, tokens)
    packings = [Packing(bits, group_size, symmetric) for bits in BITS]

    def measure() -> dict[str, int]:
        tried = [Quantize(method, packing, damping, act_order) for packing in packings]
        return _bits(checkpoint, measured(checkpoint, tokens, tried, seed, partial), packings, mean_bits)

    def work() -> Iterator[LayerReport]:
        bits = _once(partial, measure)
        yield from quantize_folder(
            source,
            destination,
            tokens,
            method=method,
            bits=max(bits.values()),
            bits_of=bits,
            group_size=group_size,
            symmetric=symmetric,
            act_order=act_order,
            damping=damping,
            partial=partial,
        )

    return work()


def _levels(sparsity: float) -> tuple[float, ...]:
    """Zero shares that are tried: most first, which is least first of what stays."""
    reach = min(REACH, sparsity, (1 - sparsity) / 2)
    return tuple(sparsity + reach * part for part in (1.0, 0.5, 0.0, -0.5, -1.0))


def _shares(checkpoint: Checkpoint, found: Errors, levels: Sequence[float], sparsity: float) -> dict[str, float]:
    sizes = {name: _size(checkpoint, name) for name in found}
    curves = [Curve(tuple((1 - level) * sizes[name] for level in levels), lost) for name, lost in found.items()]
    kept = divide(curves, (1 - sparsity) * sum(sizes.values()))
    return {name: 1 - stays / sizes[name] for name, stays in zip(found, kept, strict=True)}


def _bits(checkpoint: Checkpoint, found: Errors, packings: Sequence[Packing], mean_bits: float) -> dict[str, int]:
    curves = [
        Curve(tuple(float(stored_bits(packing, *checkpoint.linear_shape(name))) for packing in packings), lost)
        for name, lost in found.items()
    ]
    places = choose(curves, mean_bits * sum(_size(checkpoint, name) for name in found))
    return {name: packings[place].bits for name, place in zip(found, places, strict=True)}


def _size(checkpoint: Checkpoint, name: str) -> int:
    rows, columns = checkpoint.linear_shape(name)
    return rows * columns


def _once(partial: Partial | None, make: Callable[[], dict[str, Number]]) -> dict[str, Number]:
    """What ``make`` returns, made once for all processes that work on ``partial``."""
    if partial is None:
        return make()
    file = partial.folder / "allocation.json"
    if not file.exists():
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(make()), encoding="utf-8")
        fresh.replace(file)
    kept: dict[str, Number] = json.loads(file.read_text(encoding="utf-8"))
    return kept
