"""Refuse a pass over a model before any work: from config.json, shard headers and the tokens alone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.limits import check_tokens, position_count
from tasks.compression.packing import Packing
from tasks.compression.pruning import Pattern, Zeros
from tasks.errors import RefusedData, RefusedModel, RefusedRecipe

BITS = (2, 3, 4, 8)
SCALE_BITS = 16


def check_recipe(
    folder: Path,
    *,
    prune: bool = False,
    columns_of: int | None = None,
    group_size: int | None = None,
) -> None:
    """Refuse what the model's shapes or format make impossible, from config.json and shard headers alone.

    Args:
        folder: the model that the recipe starts from.
        prune: whether the recipe prunes.
        columns_of: m of an n:m pattern, or none.
        group_size: of the quantization, or none when the recipe does not quantize.

    Raises:
        RefusedModel: the folder cannot be compressed at all.
        RefusedRecipe: the group size or m does not divide a layer's columns, or a packed model would be pruned.
    """
    checkpoint = check_supported(folder)
    refuse_final(checkpoint)
    if prune and checkpoint.packing is not None:
        raise RefusedRecipe(
            "pruning a quantized model would move its weights off their integer grid",
            observed=f"packed weights: {checkpoint.packing}",
            limit="a dense source",
            remedy="prune before quantizing",
        )
    for what, size in (("group size", group_size), ("the pattern's m,", columns_of)):
        if size is not None:
            _check_divides(checkpoint, what, size)


def refuse_final(checkpoint: Checkpoint) -> None:
    """Refuse a folder in a format that is written last and read by servers: no stage goes on from it.

    Raises:
        RefusedModel: its integers are stored in another layout than the stages' own.
    """
    if checkpoint.packing is not None and checkpoint.layout != "pack-quantized":
        raise RefusedModel(
            "no stage goes on from this format",
            observed=f"layers stored as {checkpoint.layout}",
            limit="a dense folder, or compressed-tensors pack-quantized",
            remedy="start from the folder that it was converted from; a GPTQ folder can be repacked "
            "(tasks/compression/gptq_format.py, repack_gptq)",
        )


def _check_divides(checkpoint: Checkpoint, what: str, size: int) -> None:
    widths = sorted(
        {checkpoint.linear_shape(name)[1] for name in checkpoint.architecture.all_linears(checkpoint.config)}
    )
    uneven = [width for width in widths if width % size]
    if uneven:
        fitting = [size for size in (256, 128, 64, 32, 16, 8, 4, 2) if all(width % size == 0 for width in widths)]
        raise RefusedRecipe(
            f"{what} {size} does not divide every layer's input columns",
            observed=f"layers with {', '.join(map(str, uneven))} columns",
            limit=f"a divisor of {', '.join(map(str, widths))}",
            remedy=f"choose {', '.join(map(str, fitting)) or 'another model: none fits'}",
        )


def check_zeros(sparsity: float, pattern: str) -> Zeros:
    """The zeros that a recipe asks for.

    Raises:
        RefusedRecipe: the share is not one, or the pattern is not n:m.
    """
    try:
        parsed = Pattern.parse(pattern)
    except ValueError as error:
        raise RefusedRecipe(
            "unknown sparsity pattern", observed=pattern, limit=str(error), remedy="write 2:4, 4:8 or unstructured"
        ) from error
    if parsed is None and not 0 < sparsity < 1:
        raise RefusedRecipe(
            "sparsity is a share", observed=sparsity, limit="above 0 and below 1", remedy="write 20 % as 0.2"
        )
    return sparsity if parsed is None else parsed


def check_calibration(checkpoint: Checkpoint, tokens: Tensor) -> None:
    """Refuse calibration tokens with ids that the model does not know, or blocks with more positions than it has.

    Raises:
        RefusedData: either of these, or no tokens.
    """
    check_tokens(tokens, int(checkpoint.config["vocab_size"]))
    most = position_count(checkpoint)
    if most is not None and tokens.shape[1] > most:
        raise RefusedData(
            "calibration blocks are longer than the model's table of positions",
            observed=f"{tokens.shape[1]} tokens",
            limit=f"{most} tokens",
            remedy="lower the tokens a block",
        )


def check_choice(what: str, observed: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not one of ``allowed``; ``what`` names it."""
    if observed not in allowed:
        listed = ", ".join(map(str, allowed))
        raise RefusedRecipe(f"unknown {what}", observed=observed, limit=listed, remedy=f"choose one of {listed}")


def check_mean_bits(folder: Path, mean_bits: float, group_size: int, *, symmetric: bool = True) -> None:
    """Refuse a budget that the fewest bits exceed, or that the most bits do not use.

    Raises:
        RefusedModel: the folder cannot be read.
        RefusedRecipe: either of these.
    """
    checkpoint = Checkpoint(folder)
    shapes = [checkpoint.linear_shape(name) for name in checkpoint.architecture.all_linears(checkpoint.config)]
    weights = sum(rows * columns for rows, columns in shapes)
    least, most = (
        sum(stored_bits(Packing(bits, group_size, symmetric), *shape) for shape in shapes) / weights
        for bits in (BITS[0], BITS[-1])
    )
    if not least <= mean_bits <= most:
        raise RefusedRecipe(
            "no choice of bits fits the budget" if mean_bits < least else "the budget is more than all bits together",
            observed=f"{mean_bits:g} bits a weight",
            limit=f"{least:.3f} to {most:.3f}, scales counted",
            remedy="choose mean_bits between them, or 0 and one number of bits for every layer",
        )


def stored_bits(packing: Packing, rows: int, columns: int) -> int:
    """Bits of a layer's codes, scales and zero points on disk; scales are float16."""
    groups = rows * (columns // packing.columns_a_group(columns))
    return packing.bits * rows * columns + groups * (SCALE_BITS + (0 if packing.symmetric else packing.bits))
