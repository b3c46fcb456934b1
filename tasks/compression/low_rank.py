"""What learns in a fine-tuning: every parameter, or a low-rank addition to chosen linear layers (LoRA).

LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1): the weight W stays and W + alpha / rank · B A is served, with A of
``rank`` rows at random and B zero at the start, so that training begins at the model itself. After the last step the
product is added to the weight: what is written is an ordinary dense folder, and nothing that serves it knows of LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tasks.compression.architectures import Architecture
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST
from tasks.compression.writing import as_stored
from tasks.errors import RefusedModel, RefusedRecipe


@dataclass(frozen=True)
class LowRank:
    """Attributes:

    rank: of the addition.
    alpha: the addition is multiplied by ``alpha / rank``.
    targets: last parts of layers' names (q_proj, down_proj); none is every linear layer of the decoder blocks.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()

    def layers(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Full names of the layers that it is added to.

        Raises:
            RefusedRecipe: no rank, no alpha, a rank above a layer's size, or a target that no layer ends with.
        """
        every = checkpoint.architecture.all_linears(checkpoint.config)
        ends = sorted({name.rpartition(".")[2] for name in every})
        unknown = sorted(set(self.targets) - set(ends))
        if unknown:
            raise _refused("a target that no layer has", ", ".join(unknown), ", ".join(ends))
        chosen = tuple(name for name in every if not self.targets or name.rpartition(".")[2] in self.targets)
        most = min(min(checkpoint.linear_shape(name)) for name in chosen)
        if not 1 <= self.rank <= most or self.alpha <= 0:
            observed = f"rank {self.rank}, alpha {self.alpha:g}"
            raise _refused("numbers that no layer can take", observed, f"rank 1 to {most}, alpha above 0")
        return chosen


def _refused(what: str, observed: str, limit: str) -> RefusedRecipe:
    return RefusedRecipe(
        f"low-rank training was asked for with {what}", observed=observed, limit=limit,
        remedy="correct the training group: rank, alpha or targets; without targets every layer of the blocks learns",
    )  # fmt: skip


class LowRankLinear(nn.Module):
    """A linear layer that stays, and an addition that learns.

    Attributes:
        down: (rank, columns), uniform as ``nn.Linear`` begins, from ``generator``.
        up: (rows, rank), zero.
    """

    def __init__(self, inner: nn.Module, weight: Tensor, how: LowRank, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        start = torch.empty(how.rank, columns).uniform_(-bound, bound, generator=generator)
        self.inner, self.share = inner, how.alpha / how.rank
        self.down = nn.Parameter(start.to(weight.device))
        self.up = nn.Parameter(torch.zeros(rows, how.rank, device=weight.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        added = functional.linear(functional.linear(inputs, self.down), self.up)
        return cast(Tensor, self.inner(inputs)) + self.share * added

    def addition(self) -> Tensor:
        """(rows, columns)."""
        return self.share * (self.up.detach() @ self.down.detach())


class Tuned(Protocol):
    """What learns (``training_loop.Learner``), and what is written in the end."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...
    def groups(self) -> list[dict[str, Any]]: ...
    def clear_masked_gradients(self) -> None: ...
    def refresh(self) -> None: ...

    def stored(self, checkpoint: Checkpoint, name: str) -> Tensor:
        """Tensor ``name`` as it is to be written, in the source's own type."""


class _Plain:
    """Nothing is masked and nothing has to be made again after a step; a learning rate is absolute."""

    parameters: list[nn.Parameter]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self.parameters, "size": 1.0}]

    def clear_masked_gradients(self) -> None:
        return

    def refresh(self) -> None:
        return


class Everything(_Plain):
    """Every parameter learns, embeddings and head too; a tied one is one parameter."""

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint) -> None:
        self._named = dict(model.named_parameters(remove_duplicate=False))
        once = dict(model.named_parameters())
        absent = sorted(set(once) - set(checkpoint.names))
        if absent:
            raise RefusedModel(
                "the folder names its tensors otherwise than its architecture: what is learnt could not be written",
                observed=", ".join(absent[:3]), limit="a tensor for each parameter",
                remedy="load the model with transformers, save it again with save_pretrained, and give that folder",
            )  # fmt: skip
        self.parameters = list(once.values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def stored(self, checkpoint: Checkpoint, name: str) -> Tensor:
        if name not in self._named:  # a buffer
            return checkpoint.tensor(name)
        return as_stored(self._named[name].detach().to(HOST), checkpoint.dtype(name))


class Additions(_Plain):
    """Low-rank additions learn, and nothing else."""

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, how: LowRank, seed: int) -> None:
        self._architecture: Architecture = checkpoint.architecture
        self._layers: dict[str, LowRankLinear] = {}
        generator = torch.Generator().manual_seed(seed)
        for name in how.layers(checkpoint):
            inner = model.get_submodule(name)
            layer = LowRankLinear(inner, self._architecture.weight(inner), how, generator)
            model.set_submodule(name, layer)
            self._layers[name] = layer
        self.parameters = [part for layer in self._layers.values() for part in (layer.down, layer.up)]

    def stored(self, checkpoint: Checkpoint, name: str) -> Tensor:
        layer = self._layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if layer is None:
            return checkpoint.tensor(name)
        addition = layer.addition().to(HOST)
        before = checkpoint.values(name)
        merged = before + (addition.T if self._architecture.transposed else addition)
        return as_stored(merged, checkpoint.dtype(name))
