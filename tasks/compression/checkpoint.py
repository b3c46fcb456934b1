"""A Hugging Face folder on disk: tensors read by name, never the whole model, and written one shard a decoder block.

Only safetensors are read. Nothing is unpickled and no code of the model's own is run.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tasks.compression.architectures import (
    Architecture,
    architecture_of,
    block_count,
    find_architecture,
)
from tasks.compression.layouts import Layout, first_tensor, layout_of, packing_of, read_linear
from tasks.compression.mixed import Grids
from tasks.compression.naming import by_entry
from tasks.compression.packing import PackedLinear
from tasks.compression.shards import DTYPES, damaged, find_shards, read_json
from tasks.errors import RefusedModel


class Checkpoint:
    """A folder with config.json and safetensors shards, read lazily.

    Tensors are copies: a shard is mapped only while one is being read, so resident memory is what the caller keeps.
    They go by the names that the architecture's entry uses, whatever a folder leaves out of them.

    Raises:
        RefusedModel: no readable config.json, no safetensors weights, or a shard that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = read_json(folder / "config.json")
        self._shards, self._stored = by_entry(find_shards(folder), find_architecture(self.config))

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored tensor."""
        return tuple(sorted(self._shards))

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.config)

    @cached_property
    def packing(self) -> Grids | None:
        """The grids of the quantized linear layers, or none when the folder is dense."""
        return packing_of(self.config)

    @cached_property
    def layout(self) -> Layout | None:
        """How the quantized linear layers are stored, or none when the folder is dense."""
        return layout_of(self.config)

    @property
    def blocks(self) -> int:
        return block_count(self.config)

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding matrix; a folder may store it twice all the same."""
        if not self.architecture.head:
            return False
        said = self.config.get("tie_word_embeddings")
        return self.architecture.tied if said is None else bool(said)

    @property
    def made(self) -> tuple[str, ...]:
        """Endings of stored tensors that are no weights; they are made anew and not among ``names``."""
        entry = find_architecture(self.config)
        return () if entry is None else entry.buffers

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored.

        Raises:
            RefusedModel: it is not in the folder, or its shard cannot be read.
        """
        try:
            with safe_open(self._file(name), framework="pt") as file:
                tensor: Tensor = file.get_tensor(self._stored.get(name, name))
                return tensor.clone()
        except (SafetensorError, OSError) as error:
            raise damaged(self._shards[name], str(error)) from error

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows ``first`` up to ``last`` of one tensor as they are stored; nothing else of it is read.

        Raises:
            RefusedModel: it is not in the folder, or its shard cannot be read.
        """
        try:
            with safe_open(self._file(name), framework="pt") as file:
                part: Tensor = file.get_slice(self._stored.get(name, name))[first:last]
                return part.clone()
        except (SafetensorError, OSError) as error:
            raise damaged(self._shards[name], str(error)) from error

    def values(self, name: str) -> Tensor:
        """One floating tensor in float32, every value finite.

        Raises:
            RefusedModel: it holds NaN or infinity, or cannot be read.
        """
        tensor = self.tensor(name).to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise damaged(self._shards[name], f"{bad} of {tensor.numel()} values of {name} are not finite")
        return tensor

    def _file(self, name: str) -> Path:
        if name not in self._shards:
            raise damaged(self.folder, f"tensor {name} is missing")
        return self._shards[name]

    def dtype(self, name: str) -> torch.dtype:
        """How a tensor is stored, from its shard's header."""
        with safe_open(self._shards[name], framework="pt") as file:
            stored: str = file.get_slice(self._stored.get(name, name)).get_dtype()
        dtype = getattr(torch, DTYPES.get(stored, ""), None)
        if not isinstance(dtype, torch.dtype):
            raise damaged(self._shards[name], f"{name} is stored as {stored}")
        return dtype

    def headers(self) -> list[tuple[str, str, int]]:
        """(name in its shard, torch dtype's name, values) of every stored tensor, from the shards' headers alone."""
        found = []
        for file in sorted(set(self._shards.values())):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a dict)
                    header = opened.get_slice(name)
                    kind = header.get_dtype()
                    found.append((name, DTYPES.get(kind, kind), math.prod(header.get_shape())))
        return found

    def linear_shape(self, prefix: str) -> tuple[int, int]:
        """(rows, columns) of a linear layer, packed or dense, without reading its weights."""
        if f"{prefix}.qweight" in self._shards:
            return self.tensor(f"{prefix}.scales").shape[1], self.tensor(f"{prefix}.g_idx").numel()
        if f"{prefix}.weight" not in self._shards:
            rows, columns = self.tensor(f"{prefix}.weight_shape").tolist()
            return rows, columns
        rows, columns = self.shape(f"{prefix}.weight")
        return (columns, rows) if self.architecture.transposed else (rows, columns)

    def shape(self, name: str) -> tuple[int, ...]:
        """How a tensor is stored, from its shard's header.

        Raises:
            RefusedModel: it is not in the folder.
        """
        with safe_open(self._file(name), framework="pt") as file:
            return tuple(file.get_slice(self._stored.get(name, name)).get_shape())

    def packed(self, prefix: str) -> PackedLinear | None:
        """A linear layer's integers, or none when it is stored dense. ``prefix`` has no ``.weight``."""
        if self.packing is None or self.layout is None or f"{prefix}.{first_tensor(self.layout)}" not in self._shards:
            return None
        return read_linear(self, prefix, self.packing, self.layout)

    def linear(self, prefix: str) -> Tensor:
        """A linear layer's weight in float32, (rows, columns), dequantized when it is packed."""
        packed = self.packed(prefix)
        if packed is not None:
            return packed.dequantize()
        weight = self.values(f"{prefix}.weight")
        return weight.T.contiguous() if self.architecture.transposed else weight

    def block_names(self, index: int) -> tuple[str, ...]:
        """Every stored tensor of decoder block ``index``."""
        prefix = self.architecture.block(index) + "."
        return tuple(name for name in self.names if name.startswith(prefix))

    def outer_names(self) -> tuple[str, ...]:
        """Every tensor outside the decoder blocks: embeddings, final norm, and the head unless it is tied."""
        entry = self.architecture
        return tuple(
            name
            for name in self.names
            if not name.startswith(f"{entry.blocks}.") and not (self.tied and name.startswith(f"{entry.head}."))
        )


def check_supported(folder: Path) -> Checkpoint:
    """Open ``folder`` and refuse it now if it cannot be compressed.

    Raises:
        RefusedModel: unknown architecture, code of its own, no tokenizer.json, no safetensors, missing shards or
            tensors.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in read_json(folder / name):
            raise RefusedModel(
                "the model brings code of its own",
                observed=f"auto_map in {name}",
                limit="code that ships with transformers only",
                remedy="use a model whose architecture is built into transformers",
            )
    checkpoint = Checkpoint(folder)
    architecture = checkpoint.architecture
    if not (folder / "tokenizer.json").exists():
        raise damaged(folder / "tokenizer.json", "missing")
    wanted = {f"{architecture.embeddings}.weight"}
    if architecture.norm and not architecture.norm_optional:
        wanted.add(f"{architecture.norm}.weight")
    stored = first_tensor(checkpoint.layout if checkpoint.packing else None)
    wanted |= {f"{linear}.{stored}" for linear in architecture.all_linears(checkpoint.config)}
    lost = sorted(wanted - set(checkpoint.names))
    if lost:
        raise damaged(folder, f"{len(lost)} tensors are missing, first {lost[0]}")
    if architecture.head and not checkpoint.tied and f"{architecture.head}.weight" not in checkpoint:
        raise damaged(folder, f"{architecture.head}.weight is missing and the embeddings are not tied")
    return checkpoint


def linear_count(folder: Path) -> int:
    """How many linear layers the decoder blocks have: the number of reports that a pass over the folder yields."""
    config = read_json(folder / "config.json")
    return len(architecture_of(config).all_linears(config))
