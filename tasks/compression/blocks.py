"""All calibration tokens through one decoder block whose linear layers are changed on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from tasks.compression.decoder import Call
from tasks.compression.device import HOST
from tasks.compression.hessian import InputStatistics, accumulate, empty
from tasks.compression.spilling import HiddenStates
from tasks.errors import SlimlineError

# What paused batches keep inside a block stays below this in the host's memory, and below half of what is free in a
# device's; beyond it they begin the block again instead.
HELD_BYTES = 512 << 20


class _Wait(Exception):
    """Not an error: a batch has reached a group whose statistics lack other batches."""


class BlockPass:
    """One decoder block. A hook on the first layer of each group of linear layers sees the inputs of the whole group.

    The last batch to arrive finds the statistics complete, has the group changed, and goes on; the ones before it pause
    there, each with the few activations that it still needs (a greenlet is a call stack that can be left and entered
    again, in the same thread), so every batch runs the block once. Where those would take too much memory, they begin
    the block again instead: slower, and bounded by one batch.

    Args:
        prefix: the block's name, for messages.
        layer: the block with its weights; changed in place.
        groups: names of linear layers, relative to the block, in the order they run; one group shares its input.
        change: called once a group, with its names and complete statistics; changes the weights of ``layer``.
        held_bytes: what a token's activations take while its batch is paused, roughly; 0 begins again every time.
        sampled: whether the groups' statistics need H of some tokens alone (``hessian.InputStatistics``).
    """

    def __init__(
        self,
        prefix: str,
        layer: nn.Module,
        groups: tuple[tuple[str, ...], ...],
        change: Callable[[tuple[str, ...], InputStatistics], None],
        held_bytes: int = 0,
        sampled: bool = False,
    ) -> None:
        self._prefix, self._layer, self._groups, self._change = prefix, layer, groups, change
        self._held_bytes, self._pauses, self._sampled = held_bytes, False, sampled
        self._device = next(layer.parameters()).device
        self._done = self._batch = self._count = 0
        self._finite = torch.ones((), dtype=torch.bool, device=self._device)
        self._seen: set[int] = set()
        self._statistics: InputStatistics | None = None

    @torch.no_grad()
    def run(self, batches: HiddenStates, call: Call) -> None:
        """Replace each batch (blocks, block_tokens, hidden) in the list by the changed block's output for it.

        Raises:
            SlimlineError: a linear layer's inputs, or the block's outputs, are not finite.
        """
        self._count = len(batches)
        hooks = [
            self._layer.get_submodule(group[0]).register_forward_pre_hook(self._arrive(number))
            for number, group in enumerate(self._groups)
        ]
        held = self._held_bytes * sum(batch.shape[0] * batch.shape[1] for batch in batches)
        self._pauses = 0 < held <= _most_held(self._device)
        waiting = {number: self._start(number, batches, call) for number in range(len(batches))}
        try:
            while waiting:
                for number, stack in list(waiting.items()):
                    self._batch = number
                    stack.switch()
                    if stack.dead:
                        del waiting[number]
        finally:
            for hook in hooks:
                hook.remove()
            for stack in waiting.values():
                stack.throw()  # ends a paused batch; nothing where it has not begun
        _check_finite(self._prefix, bool(self._finite))

    def _start(self, number: int, batches: HiddenStates, call: Call) -> greenlet:
        """A call stack that takes one batch through the block, and is left wherever the batch has to wait."""

        def through() -> None:
            while not self._advance(number, batches, call):
                _leave()

        return greenlet(through)

    def _advance(self, number: int, batches: HiddenStates, call: Call) -> bool:
        """Run one batch as far as it gets; whether it got through the block."""
        states = batches[number].to(self._device)
        if self._pauses:
            batches.replace(number, states.new_empty(0))  # so that it is gone as soon as the block needs it no longer
        try:
            made = call(self._layer, states)
        except _Wait:
            return False
        self._finite &= torch.isfinite(made).all()  # where it was made: a device is not waited for
        batches.replace(number, made.to(HOST))
        return True

    def _arrive(self, number: int) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if number < self._done:
                return
            if self._statistics is None:
                self._statistics = empty(arguments[0].shape[-1], arguments[0].device, sampled=self._sampled)
            if self._batch not in self._seen:
                accumulate(self._statistics, arguments[0])
                self._seen.add(self._batch)
            if len(self._seen) < self._count:
                if not self._pauses:
                    raise _Wait
                while number >= self._done:
                    _leave()
                return
            group, statistics = self._groups[number], self._statistics
            self._done, self._seen, self._statistics = number + 1, set(), None
            _check_finite(f"{self._prefix}.{group[0]}", bool(torch.isfinite(statistics.squares).all()))
            self._change(group, statistics)

        return hook


def _most_held(device: torch.device) -> int:
    if device.type != "cuda":
        return HELD_BYTES
    return max(HELD_BYTES, torch.cuda.mem_get_info(device)[0] // 2)


def _leave() -> None:
    """Leave this call stack until it is entered again."""
    getcurrent().parent.switch()


def _check_finite(where: str, finite: bool) -> None:
    if not finite:
        raise SlimlineError(
            f"the inputs or outputs of {where} are not finite",
            observed="NaN or infinity in float32",
            limit="finite activations on every calibration token",
            remedy="look for damaged weights in the source, or compress less in the stage before this one",
        )
