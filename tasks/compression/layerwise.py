"""One pass over a model folder: decoder blocks are streamed from disk, changed and written, one at a time.

For each block: run the calibration tokens until a group of linear layers is reached, add its inputs to the group's
statistics, change the group's weights once every token has been seen, and run on with the changed weights. So each group
is fitted to what really arrives after everything before it has been compressed. When all calibration tokens fit into
one batch this costs one forward pass; otherwise batches wait at a group and begin the block again.

Memory is one block, its activations for one batch, and the hidden states of all calibration tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.decoder import Decoder
from tasks.compression.hessian import InputStatistics, accumulate, empty, inverse_factor, output_error
from tasks.compression.packing import PACKED_SUFFIXES, Packing
from tasks.compression.pruning import magnitude, sparsegpt
from tasks.compression.quantization import gptq, round_to_nearest
from tasks.compression.writing import FolderWriter, as_stored, fits
from tasks.contracts import LayerReport
from tasks.errors import RefusedData, RefusedRecipe, SlimlineError

_BATCH_BYTES = 384 << 20


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
    """What is done to each linear layer of a pass. ``others`` is the stored dtype of all other tensors, none to keep it."""

    @property
    def method(self) -> str: ...

    @property
    def packing(self) -> Packing | None: ...

    @property
    def others(self) -> torch.dtype | None: ...

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed: ...


@dataclass(frozen=True)
class Prune:
    """Zero a share of the weights and store them in the source's dtype."""

    method: str
    sparsity: float
    damping: float
    packing: Packing | None = None
    others: torch.dtype | None = None

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        fallback = None
        if self.method == "magnitude":
            pruned = magnitude(weight, self.sparsity)
        else:
            factor = statistics.factor(self.damping)
            pruned, fallback = sparsegpt(weight, factor, self.sparsity), factor.fallback
        kept = as_stored(pruned, stored)
        return Changed(kept.to(torch.float32), {f"{prefix}.weight": kept}, 8.0 * kept.element_size(), fallback)


@dataclass(frozen=True)
class Quantize:
    """Store the weights as integers and everything else as float16."""

    method: str
    packing: Packing
    damping: float
    others: torch.dtype | None = torch.float16

    def apply(self, prefix: str, weight: Tensor, statistics: InputStatistics, stored: torch.dtype) -> Changed:
        fallback = None
        if self.method == "rtn":
            packed = round_to_nearest(weight, self.packing)
        else:
            factor = statistics.factor(self.damping)
            packed, fallback = gptq(weight, factor, self.packing), factor.fallback
        return Changed(packed.dequantize(), packed.to_tensors(prefix), float(self.packing.bits), fallback)


class _Wait(Exception):  # noqa: N818  (not an error: a batch has reached a group that other batches have not)
    pass


class _BlockPass:
    """One decoder block: all calibration batches through it, its linear layers changed on the way.

    A hook on the first layer of each group sees the group's inputs. The last batch to arrive finds the statistics complete,
    changes the group's layers, and goes on; earlier ones stop there and start the block again later.
    """

    def __init__(self, prefix: str, layer: nn.Module, groups: tuple[tuple[str, ...], ...], work: _Work) -> None:
        self._prefix, self._layer, self._groups, self._work = prefix, layer, groups, work
        self._done, self._batch = 0, 0
        self._waited: set[int] = set()
        self._statistics: InputStatistics | None = None
        self.changed: dict[str, Tensor] = {}
        self.reports: list[LayerReport] = []

    def run(self, batches: list[Tensor], positions: tuple[Tensor, Tensor]) -> None:
        """Replace each batch's hidden states (blocks, block_tokens, hidden), in the list, by the changed block's output."""
        self._count = len(batches)
        hooks = [
            self._layer.get_submodule(group[0]).register_forward_pre_hook(self._arrive(number))
            for number, group in enumerate(self._groups)
        ]
        waiting = set(range(len(batches)))
        try:
            while waiting:
                for batch in sorted(waiting):
                    self._batch = batch
                    try:
                        batches[batch] = _states(self._layer(batches[batch], position_embeddings=positions))
                    except _Wait:
                        continue
                    waiting.discard(batch)
        finally:
            for hook in hooks:
                hook.remove()
        _finite(self._prefix, all(bool(torch.isfinite(batch).all()) for batch in batches))

    def _arrive(self, number: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if number < self._done:
                return
            if self._statistics is None:
                self._statistics = empty(arguments[0].shape[-1])
            if self._batch not in self._waited:
                accumulate(self._statistics, arguments[0])
                self._waited.add(self._batch)
            if len(self._waited) < self._count:
                raise _Wait
            self._change(self._groups[number], self._statistics)
            self._done, self._waited, self._statistics = number + 1, set(), None

        return hook

    def _change(self, group: tuple[str, ...], statistics: InputStatistics) -> None:
        _finite(f"{self._prefix}.{group[0]}", bool(torch.isfinite(statistics.gram.diagonal()).all()))
        for name in group:
            began = time.perf_counter()
            weight = self._layer.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            changed, report = self._work.change(f"{self._prefix}.{name}", weight, statistics)
            weight.copy_(changed.weight)
            self.changed |= changed.tensors
            self.reports.append(report.model_copy(update={"seconds": time.perf_counter() - began}))


def _states(output: Any) -> Tensor:
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)
    return states


def _finite(where: str, finite: bool) -> None:
    if not finite:
        raise SlimlineError(
            f"the inputs or outputs of {where} are not finite",
            observed="NaN or infinity in float32",
            limit="finite activations on every calibration token",
            remedy="look for damaged weights in the source, or lower the sparsity or raise the bits of the stage before",
        )


@dataclass(frozen=True)
class _Work:
    """A pass over a folder: what to read, what to do."""

    checkpoint: Checkpoint
    transform: Transform

    def change(self, prefix: str, weight: Tensor, statistics: InputStatistics) -> tuple[Changed, LayerReport]:
        name = f"{prefix}.weight"
        stored = self.checkpoint.dtype(name) if name in self.checkpoint else torch.float16
        changed = self.transform.apply(prefix, weight, statistics, stored)
        report = LayerReport(
            layer=prefix,
            method=self.transform.method,
            rows=weight.shape[0],
            columns=weight.shape[1],
            sparsity=float((changed.weight == 0).sum()) / weight.numel(),
            bits=changed.bits,
            error=output_error(weight, changed.weight, statistics.gram),
            seconds=0.0,
            fallback=changed.fallback,
        )
        return changed, report

    def rest(self, names: tuple[str, ...]) -> tuple[dict[str, Tensor], list[LayerReport]]:
        """Tensors that no transform changes, as they will be stored, and a report for each that had to stay float32."""
        kept, reports = {}, []
        for name in names:
            value = self.checkpoint.values(name)
            dtype = self.transform.others or self.checkpoint.dtype(name)
            kept[name] = as_stored(value, dtype)
            if not fits(value, dtype):
                shape = (*value.shape, 1)
                reports.append(
                    LayerReport(
                        layer=name,
                        method="keep",
                        rows=shape[0],
                        columns=shape[1],
                        sparsity=float((value == 0).sum()) / value.numel(),
                        bits=32.0,
                        error=0.0,
                        seconds=0.0,
                        fallback=f"stored as float32: a value of {float(value.abs().max()):g} is beyond {dtype}",
                    )
                )
        return kept, reports

    @torch.no_grad()
    def block(
        self,
        index: int,
        decoder: Decoder,
        batches: list[Tensor],
        positions: tuple[Tensor, Tensor],
        writer: FolderWriter,
    ) -> list[LayerReport]:
        architecture = self.checkpoint.architecture
        prefix = architecture.block(index)
        linears = {f"{prefix}.{name}" for name in architecture.linears}
        names = self.checkpoint.block_names(index)
        others = tuple(n for n in names if not (n.rpartition(".")[0] in linears and n.rpartition(".")[2] != "bias"))
        layer = decoder.take_block(index)
        kept, reports = self.rest(others)
        # The tokens go through what will be read back, norms and biases in their stored precision too.
        layer.load_state_dict(
            {n.removeprefix(prefix + "."): t.to(torch.float32) for n, t in kept.items()}, strict=False
        )
        block = _BlockPass(prefix, layer, architecture.groups, self)
        block.run(batches, positions)
        writer.write_block(index, kept | block.changed)
        return [*block.reports, *reports]

    def run(self, destination: Path, tokens: Tensor) -> Iterator[LayerReport]:
        decoder = Decoder(self.checkpoint)
        positions = decoder.positions(tokens.shape[1])
        with torch.no_grad():
            size = max(1, _BATCH_BYTES // (decoder.activation_bytes * tokens.shape[1]))
            batches = list(decoder.embed(tokens).split(size))
        with FolderWriter(self.checkpoint, destination, self.transform.packing) as writer:
            for index in range(self.checkpoint.blocks):
                yield from self.block(index, decoder, batches, positions, writer)
            outer, reports = self.rest(self._outer_names())
            writer.write_outer(outer)
            yield from reports

    def _outer_names(self) -> tuple[str, ...]:
        head = f"{self.checkpoint.architecture.head}.weight"
        tied = bool(self.checkpoint.config.get("tie_word_embeddings"))
        return tuple(name for name in self.checkpoint.outer_names() if not (tied and name == head))


def check_recipe(folder: Path, *, prune: bool = False, group_size: int | None = None) -> None:
    """Refuse what the model's shapes or format make impossible, from config.json and shard headers alone.

    Args:
        folder: the model that the recipe starts from.
        prune: whether the recipe prunes.
        group_size: of the quantization, or none when the recipe does not quantize.

    Raises:
        RefusedModel: the folder cannot be compressed at all.
        RefusedRecipe: the group size does not divide a layer's columns, or a packed model would be pruned.
    """
    checkpoint = check_supported(folder)
    if prune and checkpoint.packing is not None:
        raise RefusedRecipe(
            "pruning a quantized model would move its weights off their integer grid",
            observed=f"{checkpoint.packing.bits}-bit packed weights",
            limit="a dense source",
            remedy="prune before quantizing",
        )
    if group_size is not None:
        widths = sorted(
            {checkpoint.linear_shape(name)[1] for name in checkpoint.architecture.all_linears(checkpoint.config)}
        )
        uneven = [width for width in widths if width % group_size]
        if uneven:
            fitting = [size for size in (256, 128, 64, 32, 16, 8) if all(width % size == 0 for width in widths)]
            raise RefusedRecipe(
                f"group size {group_size} does not divide every layer's input columns",
                observed=f"layers with {', '.join(map(str, uneven))} columns",
                limit=f"a divisor of {', '.join(map(str, widths))}",
                remedy=f"choose a group size of {', '.join(map(str, fitting)) or 'another model: none fits'}",
            )


def _check_tokens(checkpoint: Checkpoint, tokens: Tensor) -> None:
    vocabulary = int(checkpoint.config["vocab_size"])
    limit = f"int64 (blocks, block_tokens), at least one block of two, ids below {vocabulary}"
    observed = None
    if tokens.dtype != torch.int64 or tokens.dim() != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        observed = f"{tokens.dtype} {tuple(tokens.shape)}"
    elif int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        observed = f"ids from {int(tokens.min())} to {int(tokens.max())}"
    if observed:
        raise RefusedData(
            "the calibration tokens do not suit the model",
            observed=observed,
            limit=limit,
            remedy="cut the text with this model's own tokenizer",
        )
    window = checkpoint.config.get("sliding_window") if checkpoint.config.get("use_sliding_window", True) else None
    if window and tokens.shape[1] > int(window):
        raise RefusedData(
            "calibration blocks are longer than the model's attention window",
            observed=f"{tokens.shape[1]} tokens",
            limit=f"{window} tokens",
            remedy="lower the tokens a block",
        )


def prune_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    sparsity: float,
    damping: float = 0.01,
    seed: int = 0,
) -> Iterator[LayerReport]:
    """Prune every linear layer of every decoder block; the new folder has the source's dtype.

    Everything is checked before this returns; the work is done while the result is iterated, a decoder block at a time, and
    the folder is complete when the iterator ends. Leaving early or failing removes what was written.

    Args:
        source: a dense Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        method: ``sparsegpt`` or ``magnitude``.
        sparsity: zero share of each layer, above 0 and below 1.
        damping: added to the Hessian's diagonal, share of its mean.
        seed: part of the recipe; both methods are deterministic and draw nothing.

    Yields:
        One report a layer, in the order they run.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations are not finite, or no damping makes a Hessian usable.
    """
    _one_of("pruning method", method, ("sparsegpt", "magnitude"))
    if not 0 < sparsity < 1:
        raise RefusedRecipe(
            "sparsity is a share", observed=sparsity, limit="above 0 and below 1", remedy="write 20 % as 0.2"
        )
    check_recipe(source, prune=True)
    checkpoint = Checkpoint(source)
    _check_tokens(checkpoint, tokens)
    return _Work(checkpoint, Prune(method, sparsity, damping)).run(destination, tokens)


def quantize_folder(
    source: Path,
    destination: Path,
    tokens: Tensor,
    *,
    method: str,
    bits: int,
    group_size: int,
    symmetric: bool,
    damping: float = 0.01,
) -> Iterator[LayerReport]:
    """Quantize every linear layer of every decoder block to the pack-quantized format; the rest becomes float16.

    Zeros of the source stay exactly zero. A packed source is dequantized first. Checks, iteration and failure as in
    ``prune_folder``.

    Args:
        source: a Hugging Face folder.
        destination: absent, or an empty folder.
        tokens: int64 (blocks, block_tokens), the calibration text.
        method: ``gptq``, or ``rtn`` (round to nearest, the reference).
        bits: 8, 4, 3 or 2.
        group_size: input columns that share one scale.
        symmetric: no zero points.
        damping: added to the Hessian's diagonal, share of its mean.

    Yields:
        One report a layer in the order they run, and one for each other tensor that float16 could not hold.

    Raises:
        Refused: the model, the tokens or the recipe cannot work.
        SlimlineError: activations are not finite, or no damping makes a Hessian usable.
    """
    _one_of("quantization method", method, ("gptq", "rtn"))
    _one_of("number of bits", bits, (8, 4, 3, 2))
    check_recipe(source, group_size=group_size)
    checkpoint = Checkpoint(source)
    _check_tokens(checkpoint, tokens)
    transform = Quantize(method, Packing(bits, group_size, symmetric), damping)
    return _Work(checkpoint, transform).run(destination, tokens)


def _one_of(what: str, observed: object, allowed: tuple[object, ...]) -> None:
    if observed not in allowed:
        listed = ", ".join(map(str, allowed))
        raise RefusedRecipe(f"unknown {what}", observed=observed, limit=listed, remedy=f"choose one of {listed}")
