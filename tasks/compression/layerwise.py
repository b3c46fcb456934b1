"""One pass over a model folder: decoder blocks are streamed from disk, changed and written, one at a time.

For each block: run the calibration tokens until a group of linear layers is reached, add its inputs to the group's
statistics, change the group's weights once every token has been seen, and run on with the changed weights. So each
group is fitted to what really arrives after everything before it has been compressed. Batches wait at a group for one
another (``blocks``), so this costs one forward pass.

Memory is one block, its activations for one batch, and what waits of all calibration tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.blocks import BlockPass
from tasks.compression.changes import Changes
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_calibration, check_choice, check_recipe, check_zeros
from tasks.compression.decoder import Call, Decoder
from tasks.compression.device import compute_device
from tasks.compression.hessian import InputStatistics
from tasks.compression.limits import check_packable
from tasks.compression.mixed import Grids, Mixed
from tasks.compression.packing import Packing
from tasks.compression.pruning import Pattern
from tasks.compression.resuming import Partial
from tasks.compression.spilling import HiddenStates
from tasks.compression.statistics import KeptStatistics, digest_of
from tasks.compression.transforms import Prune, Quantize, Transform
from tasks.compression.walking import batches_of, fit, walk
from tasks.compression.writing import FolderWriter
from tasks.contracts import LayerReport


@dataclass(frozen=True)
class _TokenPass:
    """A pass that runs the calibration tokens, and may keep the statistics that it gathers."""

    changes: Changes
    keep_statistics: bool

    def run(self, destination: Path, tokens: Tensor, partial: Partial | None) -> Iterator[LayerReport]:
        checkpoint, packing = self.changes.checkpoint, self.changes.transform.packing
        decoder = Decoder(checkpoint)
        calls = decoder.calls(tokens.shape[1])
        digest = digest_of(tokens) if self.keep_statistics else None
        with FolderWriter(checkpoint, destination, packing, partial) as writer:
            yield from walk(
                writer,
                checkpoint.blocks,
                lambda: batches_of(decoder, tokens, writer.scratch),
                lambda index, batches: self._block(index, decoder, batches, calls[index], writer, digest),
            )
            yield from self.changes.outer(writer)

    # Not around the generator: a caller's code runs between two yields and keeps its own gradient mode.
    @torch.no_grad()
    def _block(
        self,
        index: int,
        decoder: Decoder,
        batches: HiddenStates,
        call: Call,
        writer: FolderWriter,
        digest: str | None,
    ) -> list[LayerReport]:
        architecture = self.changes.checkpoint.architecture
        prefix = architecture.block(index)
        layer = decoder.take_block(index)
        fit(batches, decoder)
        kept, reports = self.changes.rest(index)
        groups: dict[str, InputStatistics] = {}
        # The tokens go through what will be read back: norms and biases in their stored precision too.
        layer.load_state_dict({name.removeprefix(f"{prefix}."): kept[name].float() for name in kept}, strict=False)

        def change(group: tuple[str, ...], statistics: InputStatistics) -> None:
            for name in group:
                weight = architecture.weight(layer.get_submodule(name))
                tensors, changed, report = self.changes.linear(f"{prefix}.{name}", weight.contiguous(), statistics)
                weight.copy_(changed)
                kept.update(tensors)
                reports.append(report)
            if digest is not None:
                groups[group[0]] = statistics

        held = decoder.activation_bytes // 2
        sampled = not (self.changes.transform.needs_gram or self.keep_statistics)
        BlockPass(prefix, layer, architecture.groups, change, held, sampled).run(batches, call)
        if digest is not None:
            writer.write_statistics(index, groups, digest)
        writer.write_block(index, kept)
        return reports


@dataclass(frozen=True)
class _KeptPass:
    """A pass with statistics that an earlier one kept: no token is run, so one block knows nothing of another."""

    changes: Changes
    kept: KeptStatistics

    def run(self, destination: Path, partial: Partial | None) -> Iterator[LayerReport]:
        checkpoint = self.changes.checkpoint
        with FolderWriter(checkpoint, destination, self.changes.transform.packing, partial) as writer:
            blocks, nothing = checkpoint.blocks, HiddenStates([])
            yield from walk(writer, blocks, lambda: nothing, lambda index, _: self._block(index, writer))
            yield from self.changes.outer(writer)

    def _block(self, index: int, writer: FolderWriter) -> list[LayerReport]:
        checkpoint, device = self.changes.checkpoint, compute_device()
        prefix = checkpoint.architecture.block(index)
        tensors, reports = self.changes.rest(index)
        for group in checkpoint.architecture.groups:
            names = [f"{prefix}.{name}" for name in group]
            statistics = self.kept.read(index, group[0], checkpoint.linear_shape(names[0])[1]).to(device)
            for name in names:
                stored, _, report = self.changes.linear(name, checkpoint.linear(name).to(device), statistics)
                tensors.update(stored)
                reports.append(report)
        writer.write_block(index, tensors)
        return reports


def compress_folder(
    checkpoint: Checkpoint,
    transform: Transform,
    destination: Path,
    tokens: Tensor,
    partial: Partial | None = None,
    *,
    keep_statistics: bool = False,
) -> Iterator[LayerReport]:
    """One pass with any transform. Checks the tokens; ``prune_folder`` and ``quantize_folder`` check the rest.

    With ``partial`` every finished block is kept there. A pass that was killed and is started again with the same
    arguments and the same folder yields the finished blocks' reports at once and goes on after them; what it writes is
    bit for bit what an uninterrupted pass writes.

    Args:
        checkpoint: the source folder.
        transform: what to do to each linear layer.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        partial: this pass's own; see above.
        keep_statistics: leave each group's statistics in the new folder (``statistics``), for a pass over that folder.
    """
    check_calibration(checkpoint, tokens)
    return _TokenPass(Changes(checkpoint, transform), keep_statistics).run(destination, tokens, partial)


def prune_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    sparsity: float,
    pattern: str = "unstructured",
    shares: Mapping[str, float] | None = None,
    damping: float = 0.01,
    seed: int = 0,
    partial: Partial | None = None,
    keep_statistics: bool = False,
) -> Iterator[LayerReport]:
    """Prune every linear layer of every decoder block; the new folder has the source's dtype.

    Everything is checked before this returns; the work is done while the result is iterated, a decoder block at a time,
    and the folder is complete when the iterator ends. Leaving early or failing removes what was written.

    Args:
        source: a dense Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        method: ``sparsegpt``, ``wanda`` or ``magnitude``.
        sparsity: zero share of each layer, above 0 and below 1; not used with a pattern.
        pattern: ``unstructured``, or n:m, of every m consecutive input columns n weights stay.
        shares: zero share of each layer that differs, by full name; without a pattern (``budget`` chooses them).
        damping: added to the Hessian's diagonal, share of its mean.
        seed: part of the recipe; all methods are deterministic and draw nothing.
        partial, keep_statistics: see ``compress_folder``.

    Yields:
        One report a layer, in the order they run.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations are not finite, or no damping makes a Hessian usable.
    """
    check_choice("pruning method", method, ("sparsegpt", "wanda", "magnitude"))
    zeros = check_zeros(sparsity, pattern)
    check_recipe(source, prune=True, columns_of=zeros.of if isinstance(zeros, Pattern) else None)
    checkpoint = Checkpoint(source)
    transform = Prune(method, zeros, damping, shares or {})
    return compress_folder(checkpoint, transform, destination, tokens, partial, keep_statistics=keep_statistics)


def quantize_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    bits: int,
    group_size: int,
    bits_of: Mapping[str, int] | None = None,
    symmetric: bool = True,
    act_order: bool = True,
    damping: float = 0.01,
    partial: Partial | None = None,
) -> Iterator[LayerReport]:
    """Quantize every linear layer of every decoder block to the pack-quantized format; the rest becomes float16.

    Zeros of the source stay exactly zero. A packed source is dequantized first. Where pruning left its statistics of
    the same tokens in the source (``prune_folder`` with ``keep_statistics``), they are used and no token is run.
    Checks, iteration and failure as in ``prune_folder``.

    Args:
        source: a Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        method: ``gptq``, or ``rtn`` (round to nearest, the reference).
        bits: 8, 4, 3 or 2.
        group_size: input columns that share one scale; 0 for one scale a row (per channel).
        bits_of: bits of each layer by full name, where they are not all the same (``budget`` chooses them).
        symmetric: no zero points. With them the folder is one to convert (``conversion``): plain transformers loads
            pack-quantized with zero points only when it is told to dequantize.
        act_order: GPTQ settles the columns with the largest inputs first; else from left to right.
        damping: added to the Hessian's diagonal, share of its mean.
        partial: where finished blocks wait, see ``compress_folder``.

    Yields:
        One report a layer in the order they run, and one for each other tensor that float16 could not hold.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations are not finite, or no damping makes a Hessian usable.
    """
    check_choice("quantization method", method, ("gptq", "rtn"))
    check_choice("number of bits", bits, (8, 4, 3, 2))
    check_recipe(source, group_size=group_size or None)
    checkpoint = Checkpoint(source)
    check_packable(checkpoint)
    grids: Grids = Packing(bits, group_size, symmetric)
    if len(set((bits_of or {}).values())) > 1:
        grids = Mixed.by_layer({name: Packing(own, group_size, symmetric) for name, own in (bits_of or {}).items()})
    transform = Quantize(method, grids, damping, act_order)
    check_calibration(checkpoint, tokens)
    kept = KeptStatistics.of(source, tokens, checkpoint.blocks)
    if kept is not None:
        return _KeptPass(Changes(checkpoint, transform), kept).run(destination, partial)
    return compress_folder(checkpoint, transform, destination, tokens, partial)
