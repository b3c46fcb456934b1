"""How the linear layers of a folder are stored, told from config.json, and one layer read from any of them.

==================  ===================================================  ==============================================
layout              tensors of a layer                                   module
==================  ===================================================  ==============================================
``pack-quantized``  ``weight_packed``, ``weight_scale``, …               ``packing.py``: what the stages read and write
``int-quantized``   ``weight`` (int8), ``weight_scale``                  here: 8-bit weights and activations
``gptq``            ``qweight``, ``qzeros``, ``scales``, ``g_idx``       ``gptq_layers.py``, version 1
``gptq_v2``         as those                                             ``gptq_layers.py``, version 2
==================  ===================================================  ==============================================

``int-quantized`` is compressed-tensors' format for W8A8: one scale a row, and activations rounded to 8 bits while the
model runs, with a scale for each token. The configuration is the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    QuantizationType,
)
from torch import Tensor

from tasks.compression.gptq_layers import gptq_config, gptq_packing, read_gptq
from tasks.compression.mixed import Grids, read_grids
from tasks.compression.packing import PackedLinear, Packing, TensorSource, read_packed
from tasks.errors import RefusedModel
from tasks.gptq_codes import stored_version

Layout = Literal["pack-quantized", "int-quantized", "gptq", "gptq_v2"]
ROW_INT8 = Packing(8, 0, True)


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """The layout that config.json announces, or none for a dense folder. Formats that nobody here reads are refused
    by ``packing_of``.
    """
    quantized = config.get("quantization_config")
    if quantized is None:
        return None
    if quantized.get("quant_method") == "gptq":
        return "gptq_v2" if stored_version(quantized) == 2 else "gptq"
    return "int-quantized" if _rounds_inputs(quantized) else "pack-quantized"


def _rounds_inputs(quantized: Mapping[str, Any]) -> bool:
    groups = list((quantized.get("config_groups") or {}).values())
    if quantized.get("format") != CompressionFormat.int_quantized.value or len(groups) != 1:
        return False
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations") or {}
    plain = weights.get("num_bits") == 8 and weights.get("strategy") == "channel" and weights.get("symmetric")
    rounded = inputs.get("num_bits") == 8 and inputs.get("strategy") == "token" and inputs.get("dynamic")
    return bool(plain and rounded and inputs.get("symmetric") and weights.get("type") == inputs.get("type") == "int")


def packing_of(config: Mapping[str, Any]) -> Grids | None:
    """The grids of the quantized layers, or none for a dense folder.

    Raises:
        RefusedModel: the folder is quantized in a format that is not read here.
    """
    layout = layout_of(config)
    if layout == "int-quantized":
        return ROW_INT8
    return read_grids(config) if layout == "pack-quantized" else gptq_packing(config)


def read_linear(source: TensorSource, prefix: str, grids: Grids, layout: Layout) -> PackedLinear:
    """Read one quantized layer. ``prefix`` is its name without ``.weight``.

    Raises:
        RefusedModel: its tensors are damaged or do not belong together.
    """
    packing = grids.of(prefix)
    if layout == "pack-quantized":
        return read_packed(source, prefix, packing)
    if layout != "int-quantized":
        return read_gptq(source, prefix, packing, 2 if layout == "gptq_v2" else 1)
    codes, scale = source.tensor(f"{prefix}.weight"), source.tensor(f"{prefix}.weight_scale")
    sound = codes.dtype == torch.int8 and scale.shape == (codes.shape[0], 1)
    if not sound or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise RefusedModel(
            f"the weights of {prefix} are damaged",
            observed=f"{codes.dtype} {tuple(codes.shape)}, scales {tuple(scale.shape)}",
            limit="int8 weights, and one positive scale a row",
            remedy="quantize the original model again",
        )
    return PackedLinear(codes, scale, None, 8, codes.shape[1], True)


def first_tensor(layout: Layout | None) -> str:
    """The tensor that every quantized linear layer of this layout has; of a dense folder its weight."""
    return {"pack-quantized": "weight_packed", "gptq": "qweight", "gptq_v2": "qweight"}.get(str(layout), "weight")


def quantization_config(packing: Packing, layout: Layout, outside: tuple[str, ...]) -> dict[str, Any]:
    """``quantization_config`` of config.json; the layers ``outside`` the blocks stay as they are."""
    if layout == "pack-quantized":
        return packing.to_config(outside)
    if layout != "int-quantized":
        return gptq_config(packing, 2 if layout == "gptq_v2" else 1)
    weights = QuantizationArgs(
        num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.CHANNEL, symmetric=True
    )
    inputs = QuantizationArgs(
        num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.TOKEN, symmetric=True, dynamic=True
    )
    scheme = QuantizationScheme(
        targets=["Linear"], weights=weights, input_activations=inputs, format=CompressionFormat.int_quantized
    )
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=CompressionFormat.int_quantized.value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=list(outside),
    )
    dumped: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return dumped


def round_tokens(inputs: Tensor) -> Tensor:
    """``inputs`` (…, columns) as a W8A8 layer sees them: each token's values on 255 steps between ± its largest.

    The step is that of compressed-tensors (``calculate_qparams``, largest ÷ 127.5); vLLM's kernel divides by 127
    (``dynamic_scaled_int8_quant``), which changes a step by 0.4 %.
    """
    step = (inputs.abs().amax(-1, keepdim=True) / 127.5).clamp_min_(torch.finfo(inputs.dtype).tiny)
    return (inputs / step).round_().clamp_(-128, 127).mul_(step)
