"""One pass over a model folder: decoder blocks are streamed from disk, changed and written, one at a time.

For each block: run the calibration tokens until a group of linear layers is reached, add its inputs to the group's
statistics, change the group's weights once every token has been seen, and run on with the changed weights. So each
group is fitted to what really arrives after everything before it has been compressed. Batches wait at a group for one
another (``blocks``), so this costs one forward pass.

Memory is one block, its activations for one batch, and what waits of all calibration tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.blocks import BlockPass
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_calibration, check_choice, check_recipe, check_zeros
from tasks.compression.decoder import Call, Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.hessian import InputStatistics, output_error
from tasks.compression.limits import check_packable
from tasks.compression.mixed import Grids, Mixed
from tasks.compression.packing import Packing
from tasks.compression.pruning import Pattern
from tasks.compression.resuming import Partial
from tasks.compression.spilling import HiddenStates
from tasks.compression.statistics import KeptStatistics, digest_of
from tasks.compression.streaming import Range, range_of, streamed
from tasks.compression.transforms import Prune, Quantize, Transform
from tasks.compression.walking import batches_of, fit, walk
from tasks.compression.writing import FolderWriter, as_stored, fits
from tasks.contracts import LayerReport


@dataclass(frozen=True)
class _Pass:
    """One pass over a folder: what to read, what to do to each linear layer, and whether to keep its statistics."""

    checkpoint: Checkpoint
    transform: Transform
    keep_statistics: bool = False

    def rerun(self, destination: Path, kept: KeptStatistics) -> Iterator[LayerReport]:
        """The pass with statistics that an earlier one kept: no token is run, so there is nothing to resume."""
        with FolderWriter(self.checkpoint, destination, self.transform.packing) as writer:
            for index in range(self.checkpoint.blocks):
                yield from self._again(index, kept, writer)
            yield from self._outer(writer)

    def _again(self, index: int, kept: KeptStatistics, writer: FolderWriter) -> list[LayerReport]:
        prefix, device = self.checkpoint.architecture.block(index), compute_device()
        tensors, reports = self._rest(self._other_names(index))
        for group in self.checkpoint.architecture.groups:
            names = [f"{prefix}.{name}" for name in group]
            statistics = kept.read(index, group[0], self.checkpoint.linear_shape(names[0])[1]).to(device)
            for name in names:
                stored, _, report = self._linear(name, self.checkpoint.linear(name).to(device), statistics)
                tensors.update(stored)
                reports.append(report)
        writer.write_block(index, tensors)
        return reports

    def run(self, destination: Path, tokens: Tensor, partial: Partial | None) -> Iterator[LayerReport]:
        decoder = Decoder(self.checkpoint)
        calls = decoder.calls(tokens.shape[1])
        digest = digest_of(tokens) if self.keep_statistics else None
        with FolderWriter(self.checkpoint, destination, self.transform.packing, partial) as writer:
            yield from walk(
                writer,
                self.checkpoint.blocks,
                lambda: batches_of(decoder, tokens, writer.scratch),
                lambda index, batches: self._block(index, decoder, batches, calls[index], writer, digest),
            )
            yield from self._outer(writer)

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
        architecture = self.checkpoint.architecture
        prefix = architecture.block(index)
        layer = decoder.take_block(index)
        fit(batches, decoder)
        kept, reports = self._rest(self._other_names(index))
        groups: dict[str, InputStatistics] = {}
        # The tokens go through what will be read back: norms and biases in their stored precision too.
        layer.load_state_dict({name.removeprefix(f"{prefix}."): kept[name].float() for name in kept}, strict=False)

        def change(group: tuple[str, ...], statistics: InputStatistics) -> None:
            for name in group:
                weight = architecture.weight(layer.get_submodule(name))
                tensors, changed, report = self._linear(f"{prefix}.{name}", weight.contiguous(), statistics)
                weight.copy_(changed)
                kept.update(tensors)
                reports.append(report)
            if digest is not None:
                groups[group[0]] = statistics

        held = decoder.activation_bytes // 2
        sampled = not (self.transform.needs_gram or self.keep_statistics)
        BlockPass(prefix, layer, architecture.groups, change, held, sampled).run(batches, call)
        if digest is not None:
            writer.write_statistics(index, groups, digest)
        writer.write_block(index, kept)
        return reports

    def _other_names(self, index: int) -> tuple[str, ...]:
        """Stored tensors of block ``index`` that are no linear layer's weight."""
        prefix = self.checkpoint.architecture.block(index)
        linears = {f"{prefix}.{name}" for name in self.checkpoint.architecture.linears}
        return tuple(
            name
            for name in self.checkpoint.block_names(index)
            if name.rpartition(".")[0] not in linears or name.endswith(".bias")
        )

    @torch.no_grad()
    def _linear(
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

    def _outer(self, writer: FolderWriter) -> list[LayerReport]:
        """Write what is outside the blocks, as ``_rest`` stores it, without holding an embedding matrix."""
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

    def _rest(self, names: tuple[str, ...]) -> tuple[dict[str, Tensor], list[LayerReport]]:
        """Tensors that no transform changes, as they will be stored, and a report for each that had to stay float32."""
        kept: dict[str, Tensor] = {}
        reports = []
        for name in names:
            value = self.checkpoint.values(name)
            dtype = self.transform.others or self.checkpoint.dtype(name)
            kept[name] = as_stored(value, dtype)
            if not fits(value, dtype):
                reports.append(_kept_wide(name, tuple(value.shape), range_of(self.checkpoint, name), dtype))
        return kept, reports


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
    return _Pass(checkpoint, transform, keep_statistics).run(destination, tokens, partial)


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
        return _Pass(checkpoint, transform).rerun(destination, kept)
    return compress_folder(checkpoint, transform, destination, tokens, partial)
