"""The bytes of a linear layer in the GPTQ format, and the weights that they mean.

The format of AutoGPTQ, GPTQModel and optimum. A linear layer of shape (rows, columns) is stored as

===================  =======  =========================================================================================
``prefix.qweight``   int32    (columns · bits / 32, rows): the codes of a row as one little-endian bit stream
``prefix.qzeros``    int32    (groups, rows · bits / 32): zero points likewise along the rows; version 1 stores them
                              less one
``prefix.scales``    float16  (groups, rows)
``prefix.g_idx``     int32    (columns,): the group of each column
===================  =======  =========================================================================================

and read as ``(code - zero point) · scale`` with codes and zero points from 0 to ``2^bits - 1``
(``gptqmodel/nn_modules/qlinear``; version 2 in ``gptqmodel/utils/model.py``, ``convert_gptq_v1_to_v2_format``).
Compression writes this format and the CPU container reads it, so it stands beside both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

GPTQ_SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")


def unpack_codes(words: Tensor, bits: int) -> Tensor:
    """int32 (n, words) → int32 (n, words · 32 / bits): each row is one little-endian stream of ``bits``-bit codes."""
    octets = np.ascontiguousarray(words.numpy()).astype("<i4", copy=False).view(np.uint8)
    stream = np.unpackbits(octets, axis=1, bitorder="little").reshape(len(octets), -1, bits)
    return torch.from_numpy((stream * (1 << np.arange(bits))).sum(-1, dtype=np.int32))


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """int (n, m) codes from 0 to ``2^bits - 1`` → int32 (n, m · bits / 32), the inverse of ``unpack_codes``.

    ``m · bits`` must be a multiple of 32.
    """
    octets = np.ascontiguousarray(codes.to(torch.uint8).numpy())
    stream = np.unpackbits(octets[..., None], axis=-1, count=bits, bitorder="little").reshape(len(octets), -1)
    words = np.packbits(stream, axis=1, bitorder="little").view("<i4")
    return torch.from_numpy(words.astype(np.int32))


def stored_version(quantization: Mapping[str, Any]) -> int:
    """1 or 2, from ``quantization_config`` of config.json; 0 for a layout of neither."""
    layout = quantization.get("checkpoint_format") or quantization.get("format") or "gptq"
    return {"gptq": 1, "gptq_v2": 2}.get(str(layout), 0)


def zero_points(qzeros: Tensor, bits: int, version: int) -> Tensor:
    """int32 (groups, rows), from 0 to ``2^bits - 1``."""
    return (unpack_codes(qzeros, bits) + (1 if version == 1 else 0)) & ((1 << bits) - 1)


def dense_weight(tensors: Mapping[str, Tensor], prefix: str, bits: int, version: int) -> Tensor:
    """One layer's weight, float32 (rows, columns); its columns may belong to groups in any order.

    The product is made in the scales' own type, so a weight is rounded to float16 once, as GPTQModel and vLLM do it.
    """
    order = tensors[f"{prefix}.g_idx"].long()
    scales = tensors[f"{prefix}.scales"]
    zeros = zero_points(tensors[f"{prefix}.qzeros"], bits, version)
    codes = unpack_codes(tensors[f"{prefix}.qweight"].T, bits)
    return ((codes - zeros[order].T).to(scales.dtype) * scales[order].T).to(torch.float32)


def dense_state(folder: Path, quantization: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor of a folder in the GPTQ format, by name, with dense float32 weights in place of the integers.

    Plain transformers reads the format through GPTQModel only, whose versions do not fit beside ours.

    Raises:
        ValueError: a layout of neither version, or a tensor of a layer is missing.
    """
    bits, version = int(quantization["bits"]), stored_version(quantization)
    if not version:
        raise ValueError(f"the GPTQ layout {quantization.get('checkpoint_format')} is not known")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    for prefix in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
        try:
            weight = dense_weight(tensors, prefix, bits, version)
        except KeyError as error:
            raise ValueError(f"the tensor {error} is missing") from error
        for suffix in GPTQ_SUFFIXES:
            del tensors[f"{prefix}.{suffix}"]
        tensors[f"{prefix}.weight"] = weight
    return tensors
