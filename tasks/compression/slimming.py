"""Structured pruning of a whole folder, streamed a decoder block at a time like ``layerwise``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.compression.blocks import BlockPass
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.checks import check_calibration, check_recipe
from tasks.compression.decoder import Call, Decoder
from tasks.compression.device import HOST
from tasks.compression.hessian import InputStatistics, output_error
from tasks.compression.influence import influential_blocks
from tasks.compression.resuming import Partial
from tasks.compression.spilling import HiddenStates
from tasks.compression.streaming import streamed
from tasks.compression.structured import (
    Shape,
    remove_columns,
    shape_of,
    smaller_config,
    smaller_shape,
    stated,
)
from tasks.compression.walking import batches_of, fit, walk
from tasks.compression.writing import FolderWriter, as_stored
from tasks.contracts import LayerReport


def slim_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    heads: float,
    channels: float,
    blocks: float,
    damping: float = 0.01,
    partial: Partial | None = None,
) -> Iterator[LayerReport]:
    """Write a smaller dense model of the same kind; its config.json has the new shape. Checks, iteration and failure
    as in ``layerwise.prune_folder``.

    Args:
        source: a dense Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        heads: share of key-value heads to remove, each with the query heads that share it.
        channels: share of MLP channels to remove.
        blocks: share of decoder blocks to remove.
        damping: added to the Hessian's diagonal, share of its mean.
        partial: where finished blocks wait, see ``layerwise.compress_folder``.

    Yields:
        One report a linear layer of each kept block; ``error`` is that of what the layer reads and makes now.

    Raises:
        Refused: the model, the tokens or the shares cannot work.
        SlimlineError: activations are not finite, or no damping makes a Hessian usable.
    """
    check_recipe(source, prune=True)
    checkpoint = Checkpoint(source)
    check_calibration(checkpoint, tokens)
    config = stated(checkpoint)
    kept = smaller_shape(config, heads, channels, blocks)
    return _Slimming(checkpoint, config, kept, damping).run(destination, tokens, partial)


@dataclass(frozen=True)
class _Cut:
    """Which structures of one kind stay in a block, bool (structures,), how many rows each has, and what it cost."""

    kept: Tensor
    size: int
    error: float
    fallback: str | None

    @property
    def rows(self) -> Tensor:
        return self.kept.repeat_interleave(self.size)


@dataclass(frozen=True)
class _Slimming:
    checkpoint: Checkpoint
    config: dict[str, Any]
    kept: Shape
    damping: float

    def run(self, destination: Path, tokens: Tensor, partial: Partial | None) -> Iterator[LayerReport]:
        chosen = influential_blocks(self.checkpoint, tokens, self.kept.blocks, partial)
        decoder = Decoder(self.checkpoint)
        calls = decoder.calls(tokens.shape[1])
        config = smaller_config(self.config, self.kept, chosen)
        with FolderWriter(self.checkpoint, destination, partial=partial, config=config) as writer:
            yield from walk(
                writer,
                len(chosen),
                lambda: batches_of(decoder, tokens, writer.scratch),
                lambda number, batches: self._block(chosen[number], number, decoder, batches, calls, writer),
            )
            outer = self.checkpoint.outer_names()
            writer.stream_outer({name: streamed(self.checkpoint, name, self.checkpoint.dtype(name)) for name in outer})

    @torch.no_grad()
    def _block(
        self,
        index: int,
        number: int,
        decoder: Decoder,
        batches: HiddenStates,
        calls: tuple[Call, ...],
        writer: FolderWriter,
    ) -> list[LayerReport]:
        """Slim block ``index`` of the source, which becomes block ``number``."""
        began = time.perf_counter()
        entry, whole = self.checkpoint.architecture, shape_of(self.config)
        prefix = entry.block(index)
        layer = decoder.take_block(index)
        fit(batches, decoder)
        keep = {entry.heads_out: self.kept.groups, entry.channels_out: self.kept.channels}
        structures = {entry.heads_out: whole.groups, entry.channels_out: whole.channels}
        cuts: dict[str, _Cut] = {}

        def change(group: tuple[str, ...], statistics: InputStatistics) -> None:
            (name,) = group
            weight = entry.weight(layer.get_submodule(name))
            size = weight.shape[1] // structures[name]
            removal = remove_columns(weight, statistics, size, keep[name], self.damping)
            stored = as_stored(removal.weight, self.checkpoint.dtype(f"{prefix}.{name}.weight")).float()
            error = output_error(weight, stored, statistics.gram)
            weight.copy_(stored)
            cuts[name] = _Cut(removal.kept.to(HOST), size, error, removal.fallback)

        parts = ((entry.channels_out,),) if entry.heads is None else ((entry.heads_out,), (entry.channels_out,))
        held = decoder.activation_bytes // 2
        BlockPass(prefix, layer, parts, change, held).run(batches, calls[index])
        tensors = self._tensors(index, layer, cuts)
        renamed = {entry.block(number) + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        writer.write_block(number, renamed)
        return self._reports(entry.block(number), renamed, cuts, time.perf_counter() - began)

    def _tensors(self, index: int, layer: nn.Module, cuts: dict[str, _Cut]) -> dict[str, Tensor]:
        """What is stored of a block, under the source's names: rows and columns of removed structures left out."""
        entry, prefix = self.checkpoint.architecture, self.checkpoint.architecture.block(index)
        _, shared = entry.heads or ((), ())
        rows = dict.fromkeys(entry.channels, cuts[entry.channels_out].rows)
        if entry.heads is not None:
            rows |= dict.fromkeys(entry.heads[0], cuts[entry.heads_out].rows)
        tensors = {}
        for full in self.checkpoint.block_names(index):
            name, _, kind = full.removeprefix(f"{prefix}.").rpartition(".")
            tensor = self.checkpoint.tensor(full)
            if name in cuts and kind == "weight":
                left = entry.weight(layer.get_submodule(name)).to(HOST)[:, cuts[name].rows]
                tensor = as_stored(left.T if entry.transposed else left, tensor.dtype)
            elif name in shared:
                kept = cuts[entry.heads_out].kept
                tensor = tensor[kept.repeat_interleave(tensor.shape[0] // len(kept))]
            elif name in rows:
                tensor = tensor[:, rows[name]] if entry.transposed and kind == "weight" else tensor[rows[name]]
            tensors[full] = tensor.contiguous()
        return tensors

    def _reports(
        self, prefix: str, tensors: dict[str, Tensor], cuts: dict[str, _Cut], seconds: float
    ) -> list[LayerReport]:
        entry = self.checkpoint.architecture
        linears = entry.linears
        return [
            LayerReport(
                layer=f"{prefix}.{name}",
                method="structured",
                rows=(weight := tensors[f"{prefix}.{name}.weight"]).shape[int(entry.transposed)],
                columns=weight.shape[int(not entry.transposed)],
                sparsity=float((weight == 0).sum()) / weight.numel(),
                bits=8.0 * weight.element_size(),
                error=cuts[name].error if name in cuts else 0.0,
                seconds=seconds / len(linears),
                fallback=cuts[name].fallback if name in cuts else None,
            )
            for name in linears
        ]
