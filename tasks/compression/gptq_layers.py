"""Linear layers in the GPTQ format ↔ ``PackedLinear``, code for code. The bytes are those of ``gptq_codes``.

Slimline chooses every group's grid before it settles the first column, and stores columns in their own order whatever
the order in which they were settled. So ``g_idx`` counts up, ``desc_act`` is false, and no kernel has to gather.

A zero point of 0 cannot be written in version 1, which stores it less one: GPTQModel 7.6 adds the one to whole words,
where a carry runs into the next zero point (its ``convert_gptq_v1_to_v2_format_module`` says so). ``choose_grids``
never chooses one, and ``to_gptq`` refuses one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.compression.packing import PackedLinear, Packing, TensorSource
from tasks.errors import RefusedModel
from tasks.gptq_codes import pack_codes, stored_version, unpack_codes, zero_points

# GPTQModel's kernels take multiples of 32 either way, and 3-bit codes fill whole words in 32s only.
STEP = 32


def gptq_packing(config: Mapping[str, Any]) -> Packing | None:
    """The grid of a folder in the GPTQ format, or none when config.json describes anything else.

    Raises:
        RefusedModel: GPTQ, but with columns out of order or in an unknown layout.
    """
    quantized = config.get("quantization_config") or {}
    if quantized.get("quant_method") != "gptq":
        return None
    size = int(quantized.get("group_size", 0))
    if not stored_version(quantized) or quantized.get("desc_act", False) or size == 0 or quantized.get("dynamic"):
        shown = {key: quantized.get(key) for key in ("format", "checkpoint_format", "sym", "desc_act", "group_size")}
        raise _unreadable(str(shown))
    return Packing(int(quantized["bits"]), max(0, size), bool(quantized.get("sym", True)))


def gptq_config(packing: Packing, version: int) -> dict[str, Any]:
    """``quantization_config`` of config.json, and all of quantize_config.json, which GPTQModel's own loader reads."""
    layout = "gptq" if version == 1 else "gptq_v2"
    return {
        "quant_method": "gptq",
        "bits": packing.bits,
        "group_size": packing.group_size or -1,
        "sym": packing.symmetric,
        "desc_act": False,
        "lm_head": False,
        "checkpoint_format": layout,
        # GPTQModel writes and reads both names; transformers 5.23 passes this one on.
        "format": layout,
        "pack_dtype": "int32",
    }


def read_gptq(source: TensorSource, prefix: str, packing: Packing, version: int = 1) -> PackedLinear:
    """Read and unpack one layer. ``prefix`` is the layer's name without the suffix.

    Raises:
        RefusedModel: a zero point other than ``2^(bits-1)`` where the grid is symmetric, columns out of order, or
            shapes that do not fit.
    """
    bits, half = packing.bits, 1 << (packing.bits - 1)
    scale = source.tensor(f"{prefix}.scales").T.contiguous()
    codes = unpack_codes(source.tensor(f"{prefix}.qweight").T, bits)
    zeros = zero_points(source.tensor(f"{prefix}.qzeros"), bits, version)
    order = source.tensor(f"{prefix}.g_idx")
    rows, columns = codes.shape
    size = packing.columns_a_group(columns)
    if scale.shape != (rows, columns // size) or zeros.shape != scale.T.shape:
        raise _unreadable(f"{prefix}: codes {tuple(codes.shape)}, scales {tuple(scale.shape)}")
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise _unreadable(f"{prefix}: scales from {float(scale.min())} to {float(scale.max())}")
    if not torch.equal(order.long(), torch.arange(columns) // size):
        raise _unreadable(f"{prefix}: columns out of order")
    if packing.symmetric and not bool((zeros == half).all()):
        raise _unreadable(f"{prefix}: zero points from {int(zeros.min())} to {int(zeros.max())}, not all {half}")
    zero = None if packing.symmetric else (zeros.T - half).to(torch.int8).contiguous()
    return PackedLinear((codes - half).to(torch.int8), scale, zero, bits, size, packing.symmetric)


def to_gptq(layer: PackedLinear, prefix: str, version: int = 1) -> dict[str, Tensor]:
    """What is stored for a layer, by full name; ``prefix`` is the layer's name without ``.weight``.

    Raises:
        RefusedModel: scales beyond float16, a zero point that version 1 cannot hold, or a shape that fills no words.
    """
    rows, columns = layer.codes.shape
    half = 1 << (layer.bits - 1)
    if rows % STEP or columns % STEP:
        raise unwritable(f"{prefix}: {rows} × {columns}", f"rows and columns in multiples of {STEP}")
    if layer.scale.dtype != torch.float16:
        raise unwritable(f"{prefix}: scales in {layer.scale.dtype}", "scales that float16 holds")
    points = torch.zeros_like(layer.scale) if layer.zero_point is None else layer.zero_point
    zeros = points.to(torch.int32).T + half
    if version == 1 and bool((zeros == 0).any()):
        raise unwritable(f"{prefix}: a zero point of 0", "zero points from 1 in version 1, which stores them less one")
    groups = torch.arange(columns, dtype=torch.int32) // layer.group_size
    return {
        f"{prefix}.qweight": pack_codes(layer.codes.to(torch.int32) + half, layer.bits).T.contiguous(),
        f"{prefix}.qzeros": pack_codes(zeros - (1 if version == 1 else 0), layer.bits),
        f"{prefix}.scales": layer.scale.T.contiguous(),
        f"{prefix}.g_idx": groups,
    }


def unwritable(observed: str, limit: str) -> RefusedModel:
    """The layer does not go into the GPTQ format."""
    return RefusedModel(
        "the model cannot be written in the GPTQ format",
        observed=observed,
        limit=limit,
        remedy="choose the format compressed-tensors",
    )


def _unreadable(observed: str) -> RefusedModel:
    return RefusedModel(
        "the folder's GPTQ format cannot be read here",
        observed=observed,
        limit="GPTQ version 1 or 2, columns in order, one grid for all layers",
        remedy="quantize again with desc_act = False and format gptq",
    )
