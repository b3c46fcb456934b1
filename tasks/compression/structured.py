"""A smaller dense model: whole attention head groups, MLP channels and decoder blocks go, and the rest is repaired.

What a head group or channel does reaches the model only through columns of one matrix: the attention's output
projection or the MLP's down projection. So both are the same question: which columns of a matrix W with inputs X can
go together, when the others may change to make up for it? With H = XᵀX, removing columns S costs
``tr(W_S [H⁻¹]_SS⁻¹ W_Sᵀ)``, and the best repair is ``W ← W − W_S [H⁻¹]_SS⁻¹ [H⁻¹]_S:`` (Frantar & Alistarh 2022,
Optimal Brain Compression, arXiv:2208.11580, for sets of weights; Kurtic et al. 2023, ZipLM, arXiv:2302.04089, for
structures). Structures go in rounds, cheapest first, with costs computed afresh each round. The matching rows of the
matrices before are cut off.

Every layer keeps the same number of heads and channels, so that config.json can say it and plain transformers loads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from tasks.compression.architectures import (
    architecture_name,
    architecture_of,
    block_count,
    find_architecture,
    size_name,
    size_of,
)
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.hessian import InputStatistics
from tasks.compression.hidden_matching import KEPT_BLOCKS
from tasks.errors import RefusedRecipe

ROUNDS = 32
"""Times that costs are computed afresh: more changes little, and each round is a few large matrix products."""


@dataclass(frozen=True)
class Shape:
    """What is kept of a model.

    Attributes:
        groups: key-value heads, each with the query heads that share it.
        channels: MLP width.
        blocks: decoder blocks.
    """

    groups: int
    channels: int
    blocks: int


def shape_of(config: dict[str, Any]) -> Shape:
    """The shape that a config.json announces."""
    groups = config.get("num_key_value_heads") or size_of(config, "num_attention_heads")
    return Shape(int(groups), size_of(config, "intermediate_size"), block_count(config))


def stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json with what it leaves to the family's defaults and what would change with the shape: the width of a
    head, and the kind of attention of each block.
    """
    whole = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    defaults = {name: getattr(whole, name, None) for name in ("head_dim", "layer_types")}
    return {name: value for name, value in defaults.items() if value is not None} | checkpoint.config


def smaller_shape(config: dict[str, Any], heads: float, channels: float, blocks: float) -> Shape:
    """What is left when these shares (0 to below 1) of each are removed, rounded to whole structures.

    A wide MLP keeps a multiple of 128 channels, a narrow one of 32: quantization groups divide what is left.

    Raises:
        RefusedRecipe: a share is out of range, nothing would be removed, or the architecture cannot say what is left.
    """
    whole = shape_of(config)
    _check_removable(config, heads, blocks)
    if not all(0 <= share < 1 for share in (heads, channels, blocks)):
        raise RefusedRecipe(
            "a share to remove is out of range",
            observed=f"heads {heads:g}, channels {channels:g}, blocks {blocks:g}",
            limit="0 to below 1",
            remedy="write 25 % as 0.25",
        )
    unit = next((unit for unit in (128, 32) if whole.channels % unit == 0 and whole.channels >= 4 * unit), 1)
    kept = Shape(
        max(1, round(whole.groups * (1 - heads))),
        max(unit, unit * round(whole.channels * (1 - channels) / unit)),
        max(1, round(whole.blocks * (1 - blocks))),
    )
    if kept == whole:
        raise RefusedRecipe(
            "structured pruning would remove nothing",
            observed=f"heads {heads:g}, channels {channels:g}, blocks {blocks:g}",
            limit=f"at least one of {whole.groups} key-value heads, {unit} of {whole.channels} channels or one of "
            f"{whole.blocks} blocks",
            remedy="raise one of the shares",
        )
    return kept


def check_shares(folder: Path, heads: float, channels: float, blocks: float, group_size: int | None) -> None:
    """Refuse before any work what structured pruning, or quantization after it, would refuse.

    Args:
        folder: the model that the recipe starts from; only its config.json is read.
        heads, channels, blocks: as in ``smaller_shape``.
        group_size: of the quantization that follows, or none.

    Raises:
        RefusedRecipe: see ``smaller_shape``, or the group size does not divide what is left of a layer's columns.
    """
    config = stated(Checkpoint(folder))
    left = smaller_config(config, smaller_shape(config, heads, channels, blocks), [])
    widths = [size_of(left, "hidden_size"), size_of(left, "intermediate_size")]
    if architecture_of(config).heads is not None:
        widths[0] = left["num_attention_heads"] * left["head_dim"]
    uneven = [width for width in widths if group_size and width % group_size]
    if uneven:
        raise RefusedRecipe(
            f"group size {group_size} does not divide what structured pruning leaves",
            observed=f"layers with {', '.join(map(str, uneven))} columns",
            limit="a divisor of every layer's columns",
            remedy="choose a smaller group size, or other shares of heads and channels",
        )


def smaller_config(config: dict[str, Any], kept: Shape, blocks: list[int]) -> dict[str, Any]:
    """``config`` with the kept shape; ``blocks`` are the kept blocks' numbers in the source, ascending."""
    changed = config | {
        size_name(config, "intermediate_size"): kept.channels,
        size_name(config, "num_hidden_layers"): kept.blocks,
    }
    if architecture_of(config).heads is not None:
        heads = int(config["num_attention_heads"])
        changed |= {
            "head_dim": config.get("head_dim") or int(config["hidden_size"]) // heads,
            "num_attention_heads": heads // shape_of(config).groups * kept.groups,
            "num_key_value_heads": kept.groups,
        }
    if config.get("layer_types") and blocks:
        changed["layer_types"] = [config["layer_types"][index] for index in blocks]
    if blocks and len(blocks) < shape_of(config).blocks:
        changed[KEPT_BLOCKS] = blocks  # distillation compares hidden states with the blocks that these came from
    return changed


def _check_removable(config: dict[str, Any], heads: float, blocks: float) -> None:
    name, entry = architecture_name(config), find_architecture(config)
    if heads and entry is not None and entry.heads is None:
        raise RefusedRecipe(
            f"structured pruning cannot remove attention heads of {name}: its config.json has no width of a head, so "
            "fewer heads of the same width cannot be said",
            observed=f"heads {heads:g}",
            limit="0 for this architecture",
            remedy="set heads to 0 and remove channels or blocks",
        )
    if blocks and config.get("scale_attn_by_inverse_layer_idx"):
        raise RefusedRecipe(
            f"structured pruning cannot remove blocks of this {name}: each one's attention is scaled by its number",
            observed="scale_attn_by_inverse_layer_idx = true",
            limit="blocks that do not know their number",
            remedy="set blocks to 0 and remove channels",
        )


@dataclass(frozen=True)
class Removal:
    """Attributes: weight, float32 (rows, columns), zero where removed; kept, bool (structures,); fallback, or none."""

    weight: Tensor
    kept: Tensor
    fallback: str | None


def remove_columns(weight: Tensor, statistics: InputStatistics, size: int, keep: int, damping: float) -> Removal:
    """Choose ``keep`` structures of ``size`` neighbouring columns and repair them for the loss of the others.

    Args:
        weight: float32 (rows, columns).
        statistics: of the layer's inputs.
        size: columns a structure; divides the columns.
        keep: structures that stay, at least 1.
        damping: added to H's diagonal, share of its mean.
    """
    factor = statistics.factor(damping)
    inverse = factor.upper.T @ factor.upper
    work, count = weight.clone(), weight.shape[1] // size
    alive = torch.ones(count, dtype=torch.bool, device=weight.device)
    while (left := int(alive.sum())) > keep:
        costs = _costs(work, inverse, size).masked_fill_(~alive, torch.inf)
        going = torch.topk(costs, min(left - keep, -(-(count - keep) // ROUNDS)), largest=False).indices
        columns = (going[:, None] * size + torch.arange(size, device=weight.device)).reshape(-1)
        # Symmetric positive definite as a principal part of an inverse of one.
        solved = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])
        work -= work[:, columns] @ solved
        inverse -= inverse[:, columns] @ solved
        alive[going] = False
        gone = (~alive).repeat_interleave(size)
        work[:, gone] = 0.0
        inverse[gone], inverse[:, gone] = 0.0, 0.0
        inverse.diagonal()[gone] = 1.0  # so that the next solve of a part of the rest does not meet a zero
    return Removal(work, alive, factor.fallback)


def _costs(weight: Tensor, inverse: Tensor, size: int) -> Tensor:
    """What removing each structure alone would cost, (structures,)."""
    if size == 1:
        return weight.square().sum(0) / inverse.diagonal()
    blocks = [part[:, i * size : (i + 1) * size] for i, part in enumerate(inverse.split(size))]
    parts = weight.view(weight.shape[0], -1, size).permute(1, 2, 0)  # structures, size, rows
    # One by one: torch deals a batch out to threads, and MKL's LU then fails on AMD's processors from 192 columns on.
    solved = torch.stack([torch.linalg.solve(block, part) for block, part in zip(blocks, parts, strict=True)])
    costs: Tensor = (parts * solved).sum((1, 2))
    return costs
