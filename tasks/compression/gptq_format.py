"""Folders in the GPTQ format → the pack-quantized folders of this package, code for code.

The format of AutoGPTQ, GPTQModel and optimum, version 1. A linear layer of shape (rows, columns) is stored as

===================  =======  =========================================================================================
``prefix.qweight``   int32    (columns · bits / 32, rows): the codes of a row as one little-endian bit stream
``prefix.qzeros``    int32    (groups, rows · bits / 32): zero points less one, likewise along the rows
``prefix.scales``    float16  (groups, rows)
``prefix.g_idx``     int32    (columns,): the group of each column
===================  =======  =========================================================================================

and read as ``(code - zero point) · scale`` (``gptqmodel/nn_modules/qlinear``). A symmetric layer has the zero point
``2^(bits-1)`` everywhere, so the same weights lie on the grid of ``packing.py``, and nothing is rounded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.limits import check_packable
from tasks.compression.packing import PackedLinear, Packing, TensorSource
from tasks.compression.writing import FolderWriter
from tasks.errors import RefusedModel

GPTQ_SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


def gptq_packing(config: Mapping[str, Any]) -> Packing | None:
    """The grid of a folder in the GPTQ format, or none when config.json describes anything else.

    Raises:
        RefusedModel: GPTQ, but with zero points, columns out of order, or the layout of version 2.
    """
    quantized = config.get("quantization_config") or {}
    if quantized.get("quant_method") != "gptq":
        return None
    layout = quantized.get("checkpoint_format") or quantized.get("format") or "gptq"
    plain = layout == "gptq" and quantized.get("sym", True) and not quantized.get("desc_act", False)
    if not plain or int(quantized.get("group_size", -1)) <= 0:
        shown = {key: quantized.get(key) for key in ("format", "checkpoint_format", "sym", "desc_act", "group_size")}
        raise _unreadable(str(shown))
    return Packing(int(quantized["bits"]), int(quantized["group_size"]), True)


def repack_gptq(source: Path, destination: Path) -> Packing:
    """Write a folder in the GPTQ format again as pack-quantized, one decoder block at a time; codes and scales stay.

    Args:
        source: a folder in the GPTQ format, symmetric, with its columns in order.
        destination: absent, or an empty folder.

    Raises:
        RefusedModel: the folder is in no such format, or its tensors do not belong together.
    """
    checkpoint = Checkpoint(source)
    packing = gptq_packing(checkpoint.config)
    if packing is None:
        raise _unreadable("no quant_method gptq in config.json")
    check_packable(checkpoint)
    architecture = checkpoint.architecture
    with FolderWriter(checkpoint, destination, packing) as writer:
        for index in range(checkpoint.blocks):
            tensors: dict[str, Tensor] = {}
            quantized = set()
            for linear in architecture.linears:
                prefix = f"{architecture.block(index)}.{linear}"
                quantized |= {f"{prefix}.{suffix}" for suffix in GPTQ_SUFFIXES}
                tensors |= read_gptq(checkpoint, prefix, packing).to_tensors(prefix)
            rest = [name for name in checkpoint.block_names(index) if name not in quantized]
            writer.write_block(index, tensors | {name: checkpoint.tensor(name) for name in rest})
        writer.write_outer({name: checkpoint.tensor(name) for name in checkpoint.outer_names()})
    return packing


def read_gptq(source: TensorSource, prefix: str, packing: Packing) -> PackedLinear:
    """Read and unpack one layer. ``prefix`` is the layer's name without the suffix.

    Raises:
        RefusedModel: a zero point other than ``2^(bits-1)``, columns out of order, or shapes that do not fit.
    """
    bits, half = packing.bits, 1 << (packing.bits - 1)
    scale = source.tensor(f"{prefix}.scales").T.contiguous()
    codes = _unpack(source.tensor(f"{prefix}.qweight").T, bits)
    zeros = (_unpack(source.tensor(f"{prefix}.qzeros"), bits) + 1) & ((1 << bits) - 1)
    order = source.tensor(f"{prefix}.g_idx")
    rows, columns = codes.shape
    if scale.shape != (rows, columns // packing.group_size) or zeros.shape != scale.T.shape:
        raise _unreadable(f"{prefix}: codes {tuple(codes.shape)}, scales {tuple(scale.shape)}")
    if not torch.equal(order.long(), torch.arange(columns) // packing.group_size):
        raise _unreadable(f"{prefix}: columns out of order")
    if not bool((zeros == half).all()):
        raise _unreadable(f"{prefix}: zero points from {int(zeros.min())} to {int(zeros.max())}, not all {half}")
    return PackedLinear((codes - half).to(torch.int8), scale, None, bits, packing.group_size, True)


def _unpack(words: Tensor, bits: int) -> Tensor:
    """int32 (n, words) → int32 (n, words · 32 / bits): each row is one little-endian stream of ``bits``-bit codes."""
    octets = np.ascontiguousarray(words.numpy()).astype("<i4", copy=False).view(np.uint8)
    stream = np.unpackbits(octets, axis=1, bitorder="little").reshape(len(octets), -1, bits)
    return torch.from_numpy((stream * (1 << np.arange(bits))).sum(-1, dtype=np.int32))


def _unreadable(observed: str) -> RefusedModel:
    return RefusedModel(
        "the folder's GPTQ format cannot be read here",
        observed=observed,
        limit="GPTQ version 1, symmetric, columns in order, one group size",
        remedy="quantize again with sym = True, desc_act = False and format gptq",
    )
