"""Folders whose linear layers have 8-bit weights and 8-bit inputs: ``int-quantized`` and ``float-quantized`` of
compressed-tensors.

A linear layer of shape (rows, columns) is stored as ``prefix.weight``, int8 or float8_e4m3fn, and
``prefix.weight_scale``, (rows, 1), and read as ``weight · scale``. While the model runs each token's inputs are rounded
too, with a scale of their own; whoever leaves that out measures a better model than is served. Scales are those of
compressed-tensors (``quantization/utils/helpers.py``, ``calculate_qparams``): the largest value over half the range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tasks.compression.packing import PackedLinear, TensorSource
from tasks.errors import RefusedModel

Kind = Literal["int", "float"]
_FORMATS: dict[str, Kind] = {"int-quantized": "int", "float-quantized": "float"}
_STORED = {"int": torch.int8, "float": torch.float8_e4m3fn}


def eight_bits(config: Mapping[str, Any]) -> Kind | None:
    """Which of the two a config.json describes; none for any other folder, and for variants that are not read here."""
    quantized = config.get("quantization_config") or {}
    kind = _FORMATS.get(str(quantized.get("format")))
    groups = list((quantized.get("config_groups") or {}).values())
    if kind is None or quantized.get("quant_method") != "compressed-tensors" or len(groups) != 1:
        return None
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations") or {}
    alike = all(
        part.get("num_bits") == 8 and part.get("type") == kind and part.get("symmetric") for part in (weights, inputs)
    )
    plain = weights.get("strategy") == "channel" and inputs.get("strategy") == "token" and inputs.get("dynamic")
    return kind if alike and plain else None


def read_eight_bits(source: TensorSource, prefix: str, kind: Kind) -> PackedLinear:
    """Read one layer; its codes are int8 or float8. ``prefix`` is its name without ``.weight``.

    Raises:
        RefusedModel: another type of values, or a scale that is not a positive finite number.
    """
    codes, scale = source.tensor(f"{prefix}.weight"), source.tensor(f"{prefix}.weight_scale")
    sound = codes.dtype == _STORED[kind] and scale.shape == (codes.shape[0], 1)
    if not sound or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise RefusedModel(
            f"the weights of {prefix} are damaged",
            observed=f"{codes.dtype} {tuple(codes.shape)}, scales {tuple(scale.shape)}",
            limit=f"{_STORED[kind]} weights, and one positive scale a row",
            remedy="quantize the original model again",
        )
    return PackedLinear(codes, scale, None, 8, codes.shape[1], True)


def round_inputs(inputs: Tensor, kind: Kind) -> Tensor:
    """``inputs`` (…, columns) as such a layer sees them: each token on the grid between ± its largest value."""
    largest = inputs.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(inputs.dtype).tiny)
    if kind == "int":
        step = largest / 127.5
        return (inputs / step).round_().clamp_(-128, 127).mul_(step)
    step = largest / torch.finfo(torch.float8_e4m3fn).max
    return (inputs / step).to(torch.float8_e4m3fn).to(inputs.dtype).mul_(step)
