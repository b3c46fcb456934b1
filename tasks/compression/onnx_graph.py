"""An ONNX file written piece by piece: nodes in memory, weights straight to ``model.onnx.data``.

Operators beside the standard ones are ONNX Runtime's own (``com.microsoft``), documented in its
``docs/ContribOperators.md``: MatMulNBits, GatherBlockQuantized, GroupQueryAttention, SkipSimplifiedLayerNormalization,
FusedMatMul.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tasks.compression.packing import PackedLinear
from tasks.errors import RefusedModel

MODEL, DATA = "model.onnx", "model.onnx.data"
MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10  # of opset 21; a newer one than the runtime knows is refused by it
_PAGE = 4096  # a weight that starts on a page can be mapped instead of read
_INLINE = 16  # bytes: ONNX Runtime infers shapes from single numbers, and only reads those in the graph itself
_LINE = 64  # what is smaller than a page is only kept off another's cache line
BLOCKS = (256, 128, 64, 32, 16)  # columns a scale in MatMulNBits
_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int64: TensorProto.INT64,
}


class GraphWriter:
    """One graph. Use as a context manager: a block that ends by an exception leaves neither file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._end = 0

    def __enter__(self) -> GraphWriter:
        self._data = (self._folder / DATA).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        if kind is not None:
            (self._folder / DATA).unlink(missing_ok=True)
            (self._folder / MODEL).unlink(missing_ok=True)

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[str | int]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, name: str, tensor: Tensor) -> str:
        """Append ``tensor``'s bytes to the data file, on pages of their own if they fill one, and return ``name``.

        A number or two stand in the graph itself.
        """
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        proto = TensorProto(name=name, data_type=_TYPES[tensor.dtype], dims=list(tensor.shape))
        self._initializers[name] = proto
        if raw.nbytes <= _INLINE:
            proto.raw_data = bytes(raw)
            return name
        gap = -self._end % (_PAGE if raw.nbytes >= _PAGE else _LINE)
        self._data.write(b"\0" * gap)
        start = self._end + gap
        self._data.write(raw)
        self._end = start + raw.nbytes
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", DATA), ("offset", str(start)), ("length", str(raw.nbytes))):
            proto.external_data.add(key=key, value=value)
        return name

    def alias(self, name: str, of: str, shape: list[int]) -> str:
        """The bytes of constant ``of`` under another name and shape; they are in the file once. Returns ``name``."""
        proto = TensorProto()
        proto.CopyFrom(self._initializers[of])
        proto.name = name
        del proto.dims[:]
        proto.dims.extend(shape)
        self._initializers[name] = proto
        return name

    def node(
        self, operator: str, inputs: list[str], output: str | list[str], domain: str = "", **attributes: Any
    ) -> str:
        """Append one node and return its first output. An empty name is an input or output that is left out."""
        outputs = [output] if isinstance(output, str) else output
        name = f"/{outputs[0]}/{operator}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def save(self, notes: dict[str, str]) -> None:
        """Write ``model.onnx``; ``notes`` become its metadata."""
        graph = helper.make_graph(self._nodes, "decoder", self._inputs, self._outputs, [*self._initializers.values()])
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="slimline")
        helper.set_model_props(model, notes)
        self._data.flush()
        onnx.save_model(model, self._folder / MODEL)

    def linear(self, prefix: str, source: str, weight: PackedLinear | Tensor, accuracy_level: int) -> str:
        """``source @ weight.T``: MatMulNBits for integers, FusedMatMul for a floating (rows, columns) matrix."""
        if isinstance(weight, Tensor):
            constant = self.constant(f"{prefix}.weight", weight.to(torch.float32))
            return self.node("FusedMatMul", [source, constant], f"{prefix}.out", MICROSOFT, transB=1)
        weight = in_blocks(weight)
        rows, columns = weight.codes.shape
        return self.node(
            "MatMulNBits", [source, *self.integers(prefix, weight)], f"{prefix}.out", MICROSOFT,
            K=columns, N=rows, bits=stored_bits(weight.bits), block_size=weight.group_size,
            accuracy_level=accuracy_level,
        )  # fmt: skip

    def integers(self, prefix: str, weight: PackedLinear) -> list[str]:
        """Codes, scales and, where the grid has them, zero points as MatMulNBits reads them; written once a prefix."""
        names = [f"{prefix}.codes", f"{prefix}.scales", f"{prefix}.zero_points"]
        if names[0] in self._initializers:
            return [name for name in names if name in self._initializers]
        blob, zero_points = blocks_of(weight)
        parts = [blob, weight.scale.to(torch.float32)] + ([] if zero_points is None else [zero_points])
        return [self.constant(name, part) for name, part in zip(names, parts, strict=False)]

    def rows(self, prefix: str, weight: PackedLinear, indices: str, output: str) -> str:
        """Rows ``indices`` of an 8-bit symmetric matrix, in float32; its bytes are those that ``linear`` multiplies."""
        codes, scales = self.integers(prefix, weight)
        shaped = self.alias(f"{prefix}.rows", codes, list(weight.codes.shape))
        return self.node(
            "GatherBlockQuantized", [shaped, indices, scales], output, MICROSOFT,
            bits=stored_bits(weight.bits), block_size=weight.group_size, gather_axis=0, quantize_axis=1,
        )  # fmt: skip


def blocks_of(linear: PackedLinear) -> tuple[Tensor, Tensor | None]:
    """The layer's integers as MatMulNBits stores them: the same ones, with a constant added that makes them unsigned.

    Groups are as ``in_blocks`` makes them.

    Codes of up to 4 bits are stored in 4 (two a byte, the earlier column in the low half), wider ones in 8. A grid of
    2 or 3 bits lies inside the wider one around the same zero, so it is carried over as it is.

    Returns:
        uint8 (rows, groups, group_size · width / 8), and zero points uint8 (rows, ceil(groups · width / 8)) or none
        when symmetric (MatMulNBits then takes ``2^(width-1)``).
    """
    size = linear.group_size
    rows, columns = linear.codes.shape
    codes = _unsigned(linear.codes, linear.bits).view(rows, columns // size, size)
    if stored_bits(linear.bits) == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    if linear.zero_point is None:
        return codes.contiguous(), None
    zeros = _unsigned(linear.zero_point, linear.bits)
    if stored_bits(linear.bits) == 4:
        zeros = torch.nn.functional.pad(zeros, (0, zeros.shape[1] % 2))
        zeros = zeros[:, 0::2] | (zeros[:, 1::2] << 4)
    return codes.contiguous(), zeros.contiguous()


def in_blocks(linear: PackedLinear) -> PackedLinear:
    """The same values with groups of a size that MatMulNBits has: a longer group is cut, each part with its scale.

    Raises:
        RefusedModel: no such size divides the group.
    """
    size = next((size for size in BLOCKS if linear.group_size % size == 0), None)
    if size is None:
        raise RefusedModel(
            "the groups do not fit ONNX Runtime's integer format",
            observed=f"{linear.group_size} columns a group",
            limit="a multiple of 16",
            remedy="quantize with a group size of 32, 64 or 128",
        )
    parts = linear.group_size // size
    points = linear.zero_point
    return replace(
        linear,
        scale=linear.scale.repeat_interleave(parts, dim=1),
        zero_point=None if points is None else points.repeat_interleave(parts, dim=1),
        group_size=size,
    )


def stored_bits(bits: int) -> int:
    """Bits in the file of a code of ``bits``."""
    return 4 if bits <= 4 else 8


def _unsigned(codes: Tensor, bits: int) -> Tensor:
    """Codes in ``-2^(width-1) … 2^(width-1) - 1`` as unsigned ones of the same distance from each other."""
    return (codes.to(torch.int16) + (1 << (stored_bits(bits) - 1))).to(torch.uint8)
