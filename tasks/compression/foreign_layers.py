"""What another engine did to each linear layer, measured on the folder that it wrote.

An engine's own report is not taken. Where its layers stand for the same function as the source's, the calibration
tokens go through the new weights block by block, as in a pass of ours, and each layer's error is the same figure. AWQ
and SmoothQuant move scale from a layer into the norm or the layer before it; only whole blocks can then be compared,
and the error is left out.

What an engine left undone is a fallback of the layer, which counts against ``max_fallback_share``: fewer zeros than
asked for, a broken n:m pattern, pruned zeros that became weights again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.hessian import InputStatistics
from tasks.compression.layerwise import compress_folder
from tasks.compression.packing import Packing
from tasks.compression.pruning import Pattern, Zeros
from tasks.compression.transforms import Changed
from tasks.contracts import LayerReport

# A source with fewer zeros than this was not pruned: dense models have a few by chance.
_PRUNED = 0.01
_LESS = 0.01  # so much below the share that was asked for is still rounding


def measure_layers(
    source: Path,
    made: Path,
    tokens: Tensor,
    *,
    method: str,
    zeros: Zeros | None = None,
    comparable: bool = True,
) -> Iterator[LayerReport]:
    """Measure every linear layer of the decoder blocks of a folder that an engine wrote.

    Args:
        source: what the engine started from.
        made: what it wrote; read only.
        tokens: int64 (blocks, block_tokens), the calibration text.
        method: for the reports.
        zeros: what was asked of a pruning, or none.
        comparable: whether each layer stands for the same function in both folders. Without it no token is run and
            there are no errors.

    Yields:
        One report a layer, in the order they run.

    Raises:
        RefusedModel: the folder that was written cannot be read.
        SlimlineError: its activations are not finite.
    """
    check = _Made(Checkpoint(made), method, zeros)
    if not comparable:
        for name in check.checkpoint.architecture.all_linears(check.checkpoint.config):
            yield check.report(name, Checkpoint(source).linear(name))
        return
    # Of a pass only the reports are wanted; what it writes are embeddings and norms.
    with tempfile.TemporaryDirectory(prefix=".measured-", dir=made.parent) as scratch:
        yield from compress_folder(Checkpoint(source), check, Path(scratch) / "rest", tokens)


@dataclass(frozen=True)
class _Made:
    """A transform that takes each layer from a finished folder."""

    checkpoint: Checkpoint
    method: str
    zeros: Zeros | None
    packing: Packing | None = None
    others: torch.dtype | None = None
    needs_gram: bool = True  # the report is all that is wanted

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        made = self.checkpoint.linear(prefix).to(weight.device)
        return Changed(made, {}, self._bits(prefix), self._undone(weight, made))

    def report(self, prefix: str, weight: Tensor) -> LayerReport:
        made = self.checkpoint.linear(prefix)
        return LayerReport(
            layer=prefix,
            method=self.method,
            rows=made.shape[0],
            columns=made.shape[1],
            sparsity=float((made == 0).sum()) / made.numel(),
            bits=self._bits(prefix),
            error=None,
            seconds=0.0,
            fallback=self._undone(weight, made),
        )

    def _bits(self, prefix: str) -> float:
        packed = self.checkpoint.packed(prefix)
        return 8.0 * self.checkpoint.dtype(f"{prefix}.weight").itemsize if packed is None else float(packed.bits)

    def _undone(self, before: Tensor, after: Tensor) -> str | None:
        share = float((after == 0).sum()) / after.numel()
        if isinstance(self.zeros, Pattern):
            wrong = int(((after.reshape(-1, self.zeros.of) != 0).sum(1) > self.zeros.kept).sum())
            if wrong:
                return f"{wrong} groups of {self.zeros.of} have more than {self.zeros.kept} weights"
        elif self.zeros is not None and share < self.zeros - _LESS:
            return f"{share:.1%} zeros where {self.zeros:.1%} were asked for"
        gone = before == 0
        lost = int((gone & (after != 0)).sum())
        if lost and float(gone.sum()) / gone.numel() > _PRUNED:
            return f"{lost} of {int(gone.sum())} pruned zeros became weights again"
        return None
