"""What a pass does to one linear layer, given its weight and the statistics of its inputs.

A transform is handed statistics and never makes them, so two of them can share one pass over a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tasks.compression.hessian import InputStatistics
from tasks.compression.mixed import Grids
from tasks.compression.pruning import Zeros, magnitude, sparsegpt, wanda
from tasks.compression.quantization import gptq, round_to_nearest
from tasks.compression.writing import as_stored


@dataclass(frozen=True)
class Changed:
    """A linear layer after a transform.

    Attributes:
        weight: float32 (rows, columns), exactly as it is read back from ``tensors``.
        tensors: what is stored, by full name.
        bits: bits a weight.
        fallback: a numerical fallback that was taken, or none.
    """

    weight: Tensor
    tensors: dict[str, Tensor]
    bits: float
    fallback: str | None


class Transform(Protocol):
    """What is done to each linear layer; ``others`` is the stored dtype of all other tensors, none to keep theirs."""

    @property
    def method(self) -> str: ...

    @property
    def packing(self) -> Grids | None: ...

    @property
    def others(self) -> torch.dtype | None: ...

    @property
    def needs_gram(self) -> bool:
        """Whether H of every token decides the result, beyond the report."""
        ...

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed: ...


@dataclass(frozen=True)
class Prune:
    """Zero a share of the weights, or a pattern of them, and store the rest in the source's dtype.

    Attributes:
        shares: zero share of each layer that has one of its own.
    """

    method: str
    zeros: Zeros
    damping: float
    shares: Mapping[str, float] = field(default_factory=dict)
    packing: Grids | None = None
    others: torch.dtype | None = None

    @property
    def needs_gram(self) -> bool:
        return self.method == "sparsegpt"

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        fallback, zeros = None, self.shares.get(prefix, self.zeros)
        if self.method == "magnitude":
            pruned = magnitude(weight, zeros)
        elif self.method == "wanda":
            pruned = wanda(weight, statistics.squares, zeros)
        else:
            factor = statistics.factor(self.damping)
            pruned, fallback = sparsegpt(weight, factor, zeros), factor.fallback
        kept = as_stored(pruned, stored)
        return Changed(kept.to(torch.float32), {f"{prefix}.weight": kept}, 8.0 * kept.element_size(), fallback)


@dataclass(frozen=True)
class Quantize:
    """Store the weights as integers and everything else as float16."""

    method: str
    packing: Grids
    damping: float
    act_order: bool = True
    others: torch.dtype | None = torch.float16

    @property
    def needs_gram(self) -> bool:
        return self.method == "gptq"

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        fallback, packing = None, self.packing.of(prefix)
        if self.method == "rtn":
            packed = round_to_nearest(weight, packing)
        else:
            factor = statistics.factor(self.damping, largest_first=self.act_order)
            importance = statistics.gram.diagonal()
            packed, fallback = gptq(weight, factor, packing, importance), factor.fallback
        return Changed(packed.dequantize(), packed.to_tensors(prefix), float(packing.bits), fallback)
