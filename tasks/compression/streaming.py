"""Large tensors of a folder a piece at a time, so that an embedding matrix never lies in memory whole.

A shard that is mapped counts as resident memory for every page that was touched, so each piece is read through a
mapping of its own. The file layout is that of the safetensors README ("Format"): eight bytes with the header's length,
the header as JSON, and the tensors' bytes in the header's order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint

PIECE_BYTES = 8 << 20
STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def pieces(checkpoint: Checkpoint, name: str) -> Iterator[Tensor]:
    """A stored tensor's rows, from the first to the last, as they are stored; whole when it has no rows.

    Raises:
        RefusedModel: it is not in the folder, or its shard cannot be read.
    """
    shape = checkpoint.shape(name)
    row = math.prod(shape[1:]) * 4
    step = max(1, PIECE_BYTES // max(1, row))
    if not shape:
        yield checkpoint.tensor(name)
    for first in range(0, shape[0] if shape else 0, step):
        yield checkpoint.rows(name, first, min(first + step, shape[0]))


def gather_rows(checkpoint: Checkpoint, name: str, places: Tensor) -> Tensor:
    """Rows of a stored matrix (rows, columns) at ``places`` (any shape, int64): float32 (*places, columns)."""
    flat = places.reshape(-1)
    columns = checkpoint.shape(name)[1]
    found = torch.empty(len(flat), columns)
    first = 0
    for piece in pieces(checkpoint, name):
        here = (flat >= first) & (flat < first + len(piece))
        found[here] = piece[flat[here] - first].to(torch.float32)
        first += len(piece)
    return found.view(*places.shape, columns)


@dataclass(frozen=True)
class Range:
    """What the values of a tensor span.

    Attributes:
        largest: the largest magnitude; NaN or infinity where a value is.
        zeros: share of values that are zero.
    """

    largest: float
    zeros: float


def range_of(checkpoint: Checkpoint, name: str) -> Range:
    """One look through a stored floating tensor."""
    largest, zeros, count = torch.zeros(()), 0, 0
    for piece in pieces(checkpoint, name):
        if piece.numel():
            largest = torch.maximum(largest, piece.abs().max().float())  # NaN wins
        zeros, count = zeros + int((piece == 0).sum()), count + piece.numel()
    return Range(float(largest), zeros / max(1, count))


@dataclass(frozen=True)
class Streamed:
    """A tensor that is written without being held: its stored type and shape, and its values from first to last."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Callable[[], Iterator[Tensor]]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def streamed(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Streamed:
    """A stored tensor, converted to ``dtype`` on the way."""
    return Streamed(dtype, checkpoint.shape(name), lambda: (piece.to(dtype) for piece in pieces(checkpoint, name)))


def whole(tensor: Tensor) -> Streamed:
    """A tensor that is there, to be written a piece at a time: the library copies all of them first."""
    rows = max(1, PIECE_BYTES // max(1, tensor[:1].nbytes)) if tensor.dim() else 0
    return Streamed(tensor.dtype, tuple(tensor.shape), lambda: iter(tensor.split(rows) if rows else [tensor]))


def save_streamed(path: Path, tensors: Mapping[str, Streamed]) -> None:
    """Write a safetensors file; the same bytes that ``safetensors.torch.save_file`` writes for the same tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # As the library does: wide types first, so that everything is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].bytes
        kind, shape = STORED[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for name in names:
            for piece in tensors[name].values():
                file.write(piece.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
