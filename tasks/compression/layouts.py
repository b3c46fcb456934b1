"""How the linear layers of a folder are stored, told from config.json, and one layer read from any of them.

=================== ==================================================== ==============================================
layout              tensors of a layer                                   module
=================== ==================================================== ==============================================
``pack-quantized``  ``weight_packed``, ``weight_scale``, …               ``packing.py``: what the stages read and write
``int-quantized``   ``weight`` (int8), ``weight_scale``                  ``eight_bits.py``: 8-bit weights and inputs
``float-quantized`` ``weight`` (float8), ``weight_scale``                the same, as llm-compressor writes it
``gptq``            ``qweight``, ``qzeros``, ``scales``, ``g_idx``       ``gptq_layers.py``, version 1
``gptq_v2``         as those                                             ``gptq_layers.py``, version 2
=================== ==================================================== ==============================================

``int-quantized`` is compressed-tensors' format for W8A8: one scale a row, and activations rounded to 8 bits while the
model runs, with a scale for each token. The configuration is the library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tasks.compression.eight_bits import Kind, eight_bits, read_eight_bits
from tasks.compression.gptq_layers import gptq_config, gptq_packing, read_gptq
from tasks.compression.mixed import Grids, read_grids
from tasks.compression.packing import PackedLinear, Packing, TensorSource, config_of, read_packed
from tasks.gptq_codes import stored_version

Layout = Literal["pack-quantized", "int-quantized", "float-quantized", "gptq", "gptq_v2"]
ROW_INT8 = Packing(8, 0, True)
_EIGHT_BITS: dict[Kind, Layout] = {"int": "int-quantized", "float": "float-quantized"}


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """The layout that config.json announces, or none for a dense folder. Formats that nobody here reads are refused
    by ``packing_of``.
    """
    quantized = config.get("quantization_config")
    if quantized is None:
        return None
    if quantized.get("quant_method") == "gptq":
        return "gptq_v2" if stored_version(quantized) == 2 else "gptq"
    kind = eight_bits(config)
    return "pack-quantized" if kind is None else _EIGHT_BITS[kind]


def packing_of(config: Mapping[str, Any]) -> Grids | None:
    """The grids of the quantized layers, or none for a dense folder.

    Raises:
        RefusedModel: the folder is quantized in a format that is not read here.
    """
    layout = layout_of(config)
    if layout in _EIGHT_BITS.values():
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
    if layout in ("gptq", "gptq_v2"):
        return read_gptq(source, prefix, packing, 2 if layout == "gptq_v2" else 1)
    return read_eight_bits(source, prefix, "int" if layout == "int-quantized" else "float")


def first_tensor(layout: Layout | None) -> str:
    """The tensor that every quantized linear layer of this layout has; of a dense folder its weight."""
    return {"pack-quantized": "weight_packed", "gptq": "qweight", "gptq_v2": "qweight"}.get(str(layout), "weight")


def quantization_config(packing: Packing, layout: Layout, outside: tuple[str, ...]) -> dict[str, Any]:
    """``quantization_config`` of config.json; the layers ``outside`` the blocks stay as they are."""
    if layout == "pack-quantized":
        return packing.to_config(outside)
    if layout != "int-quantized":
        return gptq_config(packing, 2 if layout == "gptq_v2" else 1)
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

    weights = QuantizationArgs(
        num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.CHANNEL, symmetric=True
    )
    inputs = QuantizationArgs(
        num_bits=8, type=QuantizationType.INT, strategy=QuantizationStrategy.TOKEN, symmetric=True, dynamic=True
    )
    return config_of(CompressionFormat.int_quantized, outside, weights, inputs)
