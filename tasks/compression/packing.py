"""Small integers on disk: the ``pack-quantized`` format of compressed-tensors.

A linear layer ``prefix.weight`` of shape (rows, columns) becomes

==========================  =======  ==================================================================================
``prefix.weight_packed``    int32    (rows, ceil(columns · bits / 32)): 32 neighbouring codes in ``bits`` words
``prefix.weight_scale``     float16  (rows, groups)
``prefix.weight_zero_point``  int32  (ceil(rows · bits / 32), groups): packed along the rows; only when not symmetric
``prefix.weight_shape``     int64    (2,): rows, columns
==========================  =======  ==================================================================================

and is read back as ``(code - zero point) · scale``. Packing, unpacking and the configuration are those of
compressed-tensors (``compressed_tensors.compressors.pack_quantized``), so that transformers and vLLM read what is
written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tasks.compression.device import HOST
from tasks.errors import RefusedModel
from tasks.gptq_codes import GPTQ_SUFFIXES

# compressed-tensors imports transformers, which takes seconds: it is imported where it is used.
if TYPE_CHECKING:
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import QuantizationArgs

PACKED_SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", *GPTQ_SUFFIXES)


class TensorSource(Protocol):
    """Where tensors are read by name: a ``Checkpoint``, or anything like it."""

    def tensor(self, name: str) -> Tensor: ...


def config_of(
    form: CompressionFormat,
    ignore: tuple[str, ...],
    weights: QuantizationArgs,
    input_activations: QuantizationArgs | None = None,
) -> dict[str, Any]:
    """``quantization_config`` of config.json where all linear layers but those in ``ignore`` are stored alike."""
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, QuantizationStatus

    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=input_activations, format=form)
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format=form.value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=list(ignore),
    )
    dumped: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    return dumped


@dataclass(frozen=True)
class Packing:
    """The grid that every packed linear layer of a folder shares.

    Attributes:
        bits: bits a code, 2 to 8.
        group_size: input columns that share one scale; 0 for one scale a row (per channel).
        symmetric: no zero points; the grid is ``scale · [-2^(bits-1), 2^(bits-1) - 1]``.
    """

    bits: int
    group_size: int
    symmetric: bool

    def __str__(self) -> str:
        return f"int{self.bits}, " + (f"groups of {self.group_size}" if self.group_size else "one scale a row")

    def of(self, prefix: str) -> Packing:
        """The grid of layer ``prefix``: this one, as of every other layer (``mixed`` has folders where they differ)."""
        return self

    @property
    def lowest(self) -> int:
        """The lowest code."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << (self.bits - 1)) - 1

    def columns_a_group(self, columns: int) -> int:
        """Input columns that share one scale in a layer with ``columns`` of them."""
        return self.group_size or columns

    def to_config(self, ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
        """``quantization_config`` of config.json; ``ignore`` names the linear layers that stay as they are."""
        from compressed_tensors.config import CompressionFormat
        from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType

        weights = QuantizationArgs(
            num_bits=self.bits,
            type=QuantizationType.INT,
            strategy=QuantizationStrategy.GROUP if self.group_size else QuantizationStrategy.CHANNEL,
            group_size=self.group_size or None,
            symmetric=self.symmetric,
        )
        return config_of(CompressionFormat.pack_quantized, ignore, weights=weights)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Packing | None:
        """The packing that a config.json describes, or none when the folder is dense.

        Raises:
            RefusedModel: the folder is quantized in a format that is not read here.
        """
        quantized = config.get("quantization_config")
        if quantized is None:
            return None
        method, form = quantized.get("quant_method"), quantized.get("format")
        groups = list((quantized.get("config_groups") or {}).values())
        if method != "compressed-tensors" or form != "pack-quantized" or len(groups) != 1:
            raise _unreadable(f"quant_method {method}, format {form}, {len(groups)} groups")
        weights = groups[0].get("weights") or {}
        known = weights.get("strategy") in ("group", "channel")
        plain = weights.get("type") == "int" and known and not weights.get("actorder")
        if not plain or groups[0].get("input_activations"):
            raise _unreadable(f"weights {weights}")
        return cls(int(weights["num_bits"]), int(weights.get("group_size") or 0), bool(weights["symmetric"]))


def _unreadable(observed: str) -> RefusedModel:
    return RefusedModel(
        "the model is quantized in a format that cannot be read here",
        observed=observed,
        limit="compressed-tensors, pack-quantized, one group of integer weights with group or channel strategy",
        remedy="start from the unquantized model",
    )


@dataclass(frozen=True)
class PackedLinear:
    """One quantized linear layer, unpacked.

    Attributes:
        codes: int8 (rows, columns), between ``-2^(bits-1)`` and ``2^(bits-1) - 1``.
        scale: floating (rows, groups), as stored; ``groups = columns / group_size``.
        zero_point: int8 (rows, groups) on the codes' grid, or none when symmetric.
        bits: bits a code.
        group_size: input columns that share one scale.
        symmetric: whether ``zero_point`` is absent.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    group_size: int
    symmetric: bool

    @property
    def zeros(self) -> Tensor:
        """bool (rows, columns): the weights that are exactly zero."""
        if self.zero_point is None:
            return self.codes == 0
        return self.codes == self.zero_point.repeat_interleave(self.group_size, dim=1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight, (rows, columns): ``(code - zero point) · scale``, computed in ``dtype``."""
        rows, columns = self.codes.shape
        grouped = self.codes.to(dtype).view(rows, columns // self.group_size, self.group_size)
        if self.zero_point is not None:
            grouped = grouped - self.zero_point.to(dtype).unsqueeze(-1)
        return (grouped * self.scale.to(dtype).unsqueeze(-1)).view(rows, columns)

    def to(self, device: torch.device) -> PackedLinear:
        """The same on ``device``."""
        zero = None if self.zero_point is None else self.zero_point.to(device)
        return replace(self, codes=self.codes.to(device), scale=self.scale.to(device), zero_point=zero)

    def to_tensors(self, prefix: str) -> dict[str, Tensor]:
        """What is stored for the layer, in host memory, by full name: ``prefix`` with ``.weight_packed`` and so on."""
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        tensors = {
            f"{prefix}.weight_packed": pack_to_int32(self.codes.to(HOST), self.bits),
            f"{prefix}.weight_scale": self.scale.contiguous().to(HOST),
            f"{prefix}.weight_shape": torch.tensor(self.codes.shape, dtype=torch.int64),
        }
        if self.zero_point is not None:
            tensors[f"{prefix}.weight_zero_point"] = pack_to_int32(
                self.zero_point.to(HOST), self.bits, packed_dim=0
            ).contiguous()
        return tensors


def read_packed(source: TensorSource, prefix: str, packing: Packing) -> PackedLinear:
    """Read and unpack one layer. ``prefix`` is the layer's name without ``.weight``.

    Raises:
        RefusedModel: a scale is not a positive finite number, or the shapes do not belong together.
    """
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    shape = torch.Size(source.tensor(f"{prefix}.weight_shape").tolist())
    scale = source.tensor(f"{prefix}.weight_scale")
    size = packing.columns_a_group(shape[1])
    expected = (shape[0], shape[1] // size)
    if tuple(scale.shape) != expected or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise RefusedModel(
            f"the scales of {prefix} are damaged",
            observed=f"shape {tuple(scale.shape)}, range {float(scale.min())} to {float(scale.max())}",
            limit=f"shape {expected}, all positive and finite",
            remedy="quantize the original model again",
        )
    zero_point = None
    if not packing.symmetric:
        packed = source.tensor(f"{prefix}.weight_zero_point")
        # As packed_dim=0, but compressed-tensors 0.20 cannot view a transposed single word of 4-bit codes as bytes.
        turned = packed.T.clone(memory_format=torch.contiguous_format)
        zero_point = unpack_from_int32(turned, packing.bits, scale.shape[::-1]).T.contiguous()
    codes = unpack_from_int32(source.tensor(f"{prefix}.weight_packed"), packing.bits, shape)
    return PackedLinear(codes, scale, zero_point, packing.bits, size, packing.symmetric)
