"""All calibration tokens through one decoder block whose linear layers are changed on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tasks.compression.decoder import Call
from tasks.compression.hessian import InputStatistics, accumulate, empty
from tasks.errors import SlimlineError


class _Wait(Exception):
    """Not an error: a batch has reached a group whose statistics lack other batches."""


class BlockPass:
    """One decoder block. A hook on the first layer of each group of linear layers sees the inputs of the whole group.

    The last batch to arrive finds the statistics complete, has the group changed, and goes on; the ones before it stop
    there and begin the block again later.

    Args:
        prefix: the block's name, for messages.
        layer: the block with its weights; changed in place.
        groups: names of linear layers, relative to the block, in the order they run; one group shares its input.
        change: called once a group, with its names and complete statistics; changes the weights of ``layer``.
    """

    def __init__(
        self,
        prefix: str,
        layer: nn.Module,
        groups: tuple[tuple[str, ...], ...],
        change: Callable[[tuple[str, ...], InputStatistics], None],
    ) -> None:
        self._prefix, self._layer, self._groups, self._change = prefix, layer, groups, change
        self._done = self._batch = self._count = 0
        self._seen: set[int] = set()
        self._statistics: InputStatistics | None = None

    @torch.no_grad()
    def run(self, batches: list[Tensor], call: Call) -> None:
        """Replace each batch (blocks, block_tokens, hidden) in the list by the changed block's output for it.

        Raises:
            SlimlineError: a linear layer's inputs, or the block's outputs, are not finite.
        """
        self._count = len(batches)
        hooks = [
            self._layer.get_submodule(group[0]).register_forward_pre_hook(self._arrive(number))
            for number, group in enumerate(self._groups)
        ]
        waiting = list(range(len(batches)))
        try:
            while waiting:
                waiting = [batch for batch in waiting if not self._advance(batch, batches, call)]
        finally:
            for hook in hooks:
                hook.remove()
        _check_finite(self._prefix, all(bool(torch.isfinite(batch).all()) for batch in batches))

    def _advance(self, batch: int, batches: list[Tensor], call: Call) -> bool:
        """Run one batch as far as it gets; whether it got through the block."""
        self._batch = batch
        try:
            batches[batch] = call(self._layer, batches[batch])
        except _Wait:
            return False
        return True

    def _arrive(self, number: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if number < self._done:
                return
            if self._statistics is None:
                self._statistics = empty(arguments[0].shape[-1])
            if self._batch not in self._seen:
                accumulate(self._statistics, arguments[0])
                self._seen.add(self._batch)
            if len(self._seen) < self._count:
                raise _Wait
            group, statistics = self._groups[number], self._statistics
            self._done, self._seen, self._statistics = number + 1, set(), None
            _check_finite(f"{self._prefix}.{group[0]}", bool(torch.isfinite(statistics.gram.diagonal()).all()))
            self._change(group, statistics)

        return hook


def _check_finite(where: str, finite: bool) -> None:
    if not finite:
        raise SlimlineError(
            f"the inputs or outputs of {where} are not finite",
            observed="NaN or infinity in float32",
            limit="finite activations on every calibration token",
            remedy="look for damaged weights in the source, or compress less in the stage before this one",
        )
