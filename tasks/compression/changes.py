"""What one pass makes of a folder's tensors: linear layers change, what lies around them is stored as it was.

Which statistics a layer is changed by is not asked here: ``layerwise`` gathers them or reads kept ones.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST
from tasks.compression.hessian import InputStatistics, output_error
from tasks.compression.streaming import Range, range_of, streamed
from tasks.compression.transforms import Transform
from tasks.compression.writing import FolderWriter, as_stored, fits
from tasks.contracts import LayerReport


@dataclass(frozen=True)
class Changes:
    """``transform`` applied to what ``checkpoint`` holds."""

    checkpoint: Checkpoint
    transform: Transform

    @torch.no_grad()
    def linear(
        self, prefix: str, weight: Tensor, statistics: InputStatistics
    ) -> tuple[dict[str, Tensor], Tensor, LayerReport]:
        """Change a layer's weight (rows, columns): what is stored, the weight that is read back, and the report.

        Weight and statistics on one device, and so is the weight that is read back; what is stored is in host memory.
        """
        began = time.perf_counter()
        name = f"{prefix}.weight"
        stored = self.checkpoint.dtype(name) if name in self.checkpoint else torch.float16
        changed = self.transform.apply(prefix, weight, statistics, stored)
        tensors = {stored: tensor.to(HOST) for stored, tensor in changed.tensors.items()}
        if self.checkpoint.architecture.transposed and name in tensors:
            tensors = tensors | {name: tensors[name].T.contiguous()}
        report = LayerReport(
            layer=prefix,
            method=self.transform.method,
            rows=weight.shape[0],
            columns=weight.shape[1],
            sparsity=float((changed.weight == 0).sum()) / weight.numel(),
            bits=changed.bits,
            error=output_error(weight, changed.weight, statistics.gram),
            seconds=time.perf_counter() - began,
            fallback=changed.fallback,
        )
        return tensors, changed.weight, report

    def rest(self, index: int) -> tuple[dict[str, Tensor], list[LayerReport]]:
        """Tensors of block ``index`` that no transform changes, as they will be stored, and a report for each that had
        to stay float32.
        """
        kept: dict[str, Tensor] = {}
        reports = []
        for name in self._other_names(index):
            value = self.checkpoint.values(name)
            dtype = self.transform.others or self.checkpoint.dtype(name)
            kept[name] = as_stored(value, dtype)
            if not fits(value, dtype):
                reports.append(_kept_wide(name, tuple(value.shape), range_of(self.checkpoint, name), dtype))
        return kept, reports

    def _other_names(self, index: int) -> tuple[str, ...]:
        """Stored tensors of block ``index`` that are no linear layer's weight."""
        prefix = self.checkpoint.architecture.block(index)
        linears = {f"{prefix}.{name}" for name in self.checkpoint.architecture.linears}
        return tuple(
            name
            for name in self.checkpoint.block_names(index)
            if name.rpartition(".")[0] not in linears or name.endswith(".bias")
        )

    def outer(self, writer: FolderWriter) -> list[LayerReport]:
        """Write what is outside the blocks, as ``rest`` stores it, without holding an embedding matrix."""
        tensors, reports = {}, []
        for name in self.checkpoint.outer_names():
            dtype, seen = self.transform.others or self.checkpoint.dtype(name), range_of(self.checkpoint, name)
            if not math.isfinite(seen.largest):
                self.checkpoint.values(name)  # refuses it by its name
            if seen.largest > torch.finfo(dtype).max:
                reports.append(_kept_wide(name, self.checkpoint.shape(name), seen, dtype))
                dtype = torch.float32
            tensors[name] = streamed(self.checkpoint, name, dtype)
        writer.stream_outer(tensors)
        return reports


def _kept_wide(name: str, shape: tuple[int, ...], seen: Range, dtype: torch.dtype) -> LayerReport:
    rows, columns = (*shape, 1)[:2]
    return LayerReport(
        layer=name,
        method="keep",
        rows=rows,
        columns=columns,
        sparsity=seen.zeros,
        bits=32.0,
        error=0.0,
        seconds=0.0,
        fallback=f"stored as float32: a value of {seen.largest:g} is beyond {dtype}",
    )
