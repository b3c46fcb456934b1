"""Refuse a pass over a model before any work: from config.json, shard headers and the tokens alone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.limits import position_count
from tasks.compression.loading import check_tokens
from tasks.compression.pruning import Pattern, Zeros
from tasks.errors import RefusedData, RefusedRecipe


def check_recipe(
    folder: Path,
    *,
    prune: bool = False,
    columns_of: int | None = None,
    group_size: int | None = None,
    symmetric: bool = True,
) -> None:
    """Refuse what the model's shapes or format make impossible, from config.json and shard headers alone.

    Args:
        folder: the model that the recipe starts from.
        prune: whether the recipe prunes.
        columns_of: m of an n:m pattern, or none.
        group_size: of the quantization, or none when the recipe does not quantize.
        symmetric: whether the quantization does without zero points.

    Raises:
        RefusedModel: the folder cannot be compressed at all.
        RefusedRecipe: the group size or m does not divide a layer's columns, a packed model would be pruned, or zero
            points are asked for.
    """
    checkpoint = check_supported(folder)
    if prune and checkpoint.packing is not None:
        raise RefusedRecipe(
            "pruning a quantized model would move its weights off their integer grid",
            observed=f"{checkpoint.packing.bits}-bit packed weights",
            limit="a dense source",
            remedy="prune before quantizing",
        )
    if not symmetric:
        # transformers builds the packed layout on the meta device, where compressed-tensors 0.20 leaves zero points
        # unpacked, so from_pretrained raises on their shape; only CompressedTensorsConfig(dequantize=True) loads them.
        raise RefusedRecipe(
            "a folder with zero points cannot be loaded by plain transformers",
            observed="symmetric = False",
            limit="symmetric grids, with compressed-tensors 0.20 and transformers 5.23",
            remedy="set symmetric to True; a smaller group size gives back what the zero point would",
        )
    for what, size in (("group size", group_size), ("the pattern's m,", columns_of)):
        if size is not None:
            _check_divides(checkpoint, what, size)


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
