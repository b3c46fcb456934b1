"""What each candidate is expected to cost in each layer, measured on the whole model before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from tasks.compression.blocks import BlockPass
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.decoder import Decoder
from tasks.compression.device import compute_device
from tasks.compression.hessian import InputStatistics
from tasks.compression.resuming import Partial
from tasks.compression.sensitivity import Errors, errors, output_gradients
from tasks.compression.spilling import HiddenStates
from tasks.compression.statistics import KeptStatistics
from tasks.compression.transforms import Transform
from tasks.compression.walking import batches_of, fit, measure

GRADIENT_BLOCKS = 16
"""Gradients are of so many calibration blocks at most; they settle sooner than input statistics do."""

Statistics = Iterable[tuple[tuple[str, ...], InputStatistics]]
"""Groups of linear layers in one block, by name in the block, and what they read."""
Losses = dict[str, tuple[float, ...]]


def measured(
    checkpoint: Checkpoint, tokens: Tensor, candidates: Sequence[Transform], seed: int, partial: Partial | None
) -> Errors:
    """For each layer what each candidate is expected to cost, the layers before it as they are in ``checkpoint``.

    Args:
        checkpoint: the source folder.
        tokens: int64 (blocks, block_tokens); gradients are of the first ``GRADIENT_BLOCKS``.
        candidates: what might be done to a layer.
        seed: of the labels that gradients are taken of.
        partial: of the pass that wants to know. Gradients are kept there after each token block, candidates after each
            decoder block; another process goes on after them and finds the same, bit for bit.

    Raises:
        SlimlineError: activations or gradients are not finite, or no damping makes a Hessian usable.
    """
    sample, blocks = tokens[:GRADIENT_BLOCKS], checkpoint.blocks
    gradients, tried = (
        None if partial is None else partial.first(name, parts)
        for name, parts in (("gradients", len(sample)), ("candidates", blocks))
    )
    squares = output_gradients(checkpoint.folder, sample, seed=seed, partial=gradients)

    def losses(index: int, seen: Statistics) -> Losses:
        found: Losses = {}
        for group, statistics in seen:
            for name in (f"{checkpoint.architecture.block(index)}.{linear}" for linear in group):
                weight = checkpoint.linear(name).to(compute_device())
                found[name] = errors(name, weight, statistics, squares[name], candidates)
        return found

    kept = KeptStatistics.of(checkpoint.folder, tokens, blocks)
    if kept is None:
        each = _with_tokens(checkpoint, tokens, losses, tried)
    else:
        each = measure(tried, blocks, lambda: HiddenStates([]), lambda i, _: losses(i, _read(kept, checkpoint, i)))
    return {name: tuple(lost) for block in each for name, lost in block.items()}


def _with_tokens(
    checkpoint: Checkpoint, tokens: Tensor, losses: Callable[[int, Statistics], Losses], partial: Partial | None
) -> list[Losses]:
    """A pass that changes nothing."""
    decoder, entry = Decoder(checkpoint), checkpoint.architecture
    calls = decoder.calls(tokens.shape[1])

    def work(index: int, batches: HiddenStates) -> Losses:
        seen: dict[tuple[str, ...], InputStatistics] = {}
        layer, held = decoder.take_block(index), decoder.activation_bytes // 2
        fit(batches, decoder)
        BlockPass(entry.block(index), layer, entry.groups, seen.__setitem__, held).run(batches, calls[index])
        return losses(index, seen.items())

    def start() -> HiddenStates:
        return batches_of(decoder, tokens, None if partial is None else partial.files)

    return measure(partial, checkpoint.blocks, start, work)


def _read(kept: KeptStatistics, checkpoint: Checkpoint, index: int) -> Statistics:
    """Those that lie beside the model, a group at a time."""
    entry = checkpoint.architecture
    for group in entry.groups:
        columns = checkpoint.linear_shape(f"{entry.block(index)}.{group[0]}")[1]
        yield group, kept.read(index, group[0], columns).to(compute_device())
