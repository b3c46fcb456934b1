"""A Hugging Face folder on disk: tensors read by name, never the whole model, and written one shard a decoder block.

Only safetensors are read. Nothing is unpickled and no code of the model's own is run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tasks.compression.architectures import (
    Architecture,
    architecture_name,
    architecture_of,
    block_count,
    find_architecture,
)
from tasks.compression.eight_bits import BY_ROW, eight_bits, read_eight_bits
from tasks.compression.naming import by_entry
from tasks.compression.packing import PACKED_SUFFIXES, PackedLinear, Packing, read_packed
from tasks.errors import RefusedModel

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """A folder with config.json and safetensors shards, read lazily.

    Tensors are copies: a shard is mapped only while one is being read, so resident memory is what the caller keeps.
    They go by the names that the architecture's entry uses, whatever a folder leaves out of them.

    Raises:
        RefusedModel: no readable config.json, no safetensors weights, or a shard that is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = _read_json(folder / "config.json")
        self._shards, self._stored = by_entry(_shards(folder), find_architecture(self.config))

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored tensor."""
        return tuple(sorted(self._shards))

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.config)

    @cached_property
    def packing(self) -> Packing | None:
        """The grid of the quantized linear layers, or none when the folder is dense."""
        return BY_ROW if eight_bits(self.config) else Packing.from_config(self.config)

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
        if name not in self._shards:
            raise _damaged(self.folder, f"tensor {name} is missing")
        try:
            with safe_open(self._shards[name], framework="pt") as file:
                tensor: Tensor = file.get_tensor(self._stored.get(name, name))
                return tensor.clone()
        except (SafetensorError, OSError) as error:
            raise _damaged(self._shards[name], str(error)) from error

    def values(self, name: str) -> Tensor:
        """One floating tensor in float32, every value finite.

        Raises:
            RefusedModel: it holds NaN or infinity, or cannot be read.
        """
        tensor = self.tensor(name).to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise _damaged(self._shards[name], f"{bad} of {tensor.numel()} values of {name} are not finite")
        return tensor

    def dtype(self, name: str) -> torch.dtype:
        """How a tensor is stored, from its shard's header."""
        with safe_open(self._shards[name], framework="pt") as file:
            stored: str = file.get_slice(self._stored.get(name, name)).get_dtype()
        dtype = getattr(torch, _DTYPES.get(stored, ""), None)
        if not isinstance(dtype, torch.dtype):
            raise _damaged(self._shards[name], f"{name} is stored as {stored}")
        return dtype

    def linear_shape(self, prefix: str) -> tuple[int, int]:
        """(rows, columns) of a linear layer, packed or dense, without reading its weights."""
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
        if name not in self._shards:
            raise _damaged(self.folder, f"tensor {name} is missing")
        with safe_open(self._shards[name], framework="pt") as file:
            return tuple(file.get_slice(self._stored.get(name, name)).get_shape())

    def packed(self, prefix: str) -> PackedLinear | None:
        """A linear layer's integers, or none when it is stored dense. ``prefix`` has no ``.weight``."""
        kind = eight_bits(self.config)
        if kind is not None:
            return read_eight_bits(self, prefix, kind)
        if self.packing is None or f"{prefix}.weight_packed" not in self._shards:
            return None
        return read_packed(self, prefix, self.packing)

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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(loaded, dict):
        raise _damaged(path, f"a JSON {type(loaded).__name__}")
    return loaded


def _damaged(path: Path, observed: str) -> RefusedModel:
    return RefusedModel(
        f"{path.name} cannot be read",
        observed=observed,
        limit="a whole Hugging Face folder: config.json, tokenizer.json, safetensors weights, finite values",
        remedy="get the model again, or convert it with save_pretrained of transformers",
    )


def _shards(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it; every shard is opened once, so a missing or cut one shows here."""
    if (folder / INDEX).exists():
        listed: Mapping[str, str] = _read_json(folder / INDEX).get("weight_map", {})
        files = sorted({folder / Path(name).name for name in listed.values()})
    elif (folder / SINGLE).exists():
        listed, files = {}, [folder / SINGLE]
    else:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        raise RefusedModel(
            "the folder has no safetensors weights",
            observed=f"pickled weights: {', '.join(pickled)}" if pickled else f"neither {SINGLE} nor {INDEX}",
            limit="safetensors; pickled files can run code and are never opened",
            remedy="convert the model once with save_pretrained of transformers and use that folder",
        )
    held: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                held.update(dict.fromkeys(opened.keys(), file))
        except (SafetensorError, OSError) as error:
            raise _damaged(file, str(error)) from error
    lost = sorted(set(listed) - set(held))
    if lost:
        raise _damaged(folder / INDEX, f"{len(lost)} listed tensors are in no shard, first {lost[0]}")
    return held


def check_supported(folder: Path) -> Checkpoint:
    """Open ``folder`` and refuse it now if it cannot be compressed.

    Raises:
        RefusedModel: unknown architecture, code of its own, no tokenizer.json, no safetensors, missing shards or
            tensors.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in _read_json(folder / name):
            raise RefusedModel(
                "the model brings code of its own",
                observed=f"auto_map in {name}",
                limit="code that ships with transformers only",
                remedy="use a model whose architecture is built into transformers",
            )
    checkpoint = Checkpoint(folder)
    architecture = checkpoint.architecture
    if not (folder / "tokenizer.json").exists():
        raise _damaged(folder / "tokenizer.json", "missing")
    wanted = {f"{architecture.embeddings}.weight"}
    if architecture.norm and not architecture.norm_optional:
        wanted.add(f"{architecture.norm}.weight")
    plain = checkpoint.packing is None or eight_bits(checkpoint.config) is not None
    stored = "weight" if plain else "weight_packed"
    wanted |= {f"{linear}.{stored}" for linear in architecture.all_linears(checkpoint.config)}
    lost = sorted(wanted - set(checkpoint.names))
    if lost:
        raise _damaged(folder, f"{len(lost)} tensors are missing, first {lost[0]}")
    if architecture.head and not checkpoint.tied and f"{architecture.head}.weight" not in checkpoint:
        raise _damaged(folder, f"{architecture.head}.weight is missing and the embeddings are not tied")
    return checkpoint


@dataclass(frozen=True)
class FolderFacts:
    """What the files of a folder say; the fields of ``ModelRef`` that are measured.

    Attributes:
        architecture: as in config.json.
        parameters: weights of the dense model, tied ones once.
        bytes: all files of the model; not calibration statistics that lie beside it.
        dtype: of most unquantized values: float32, float16, bfloat16.
        sparsity: zero share of the decoder blocks' linear weights, 0 to 1.
        bits: bits a weight in those, scales not counted.
    """

    architecture: str
    parameters: int
    bytes: int
    dtype: str
    sparsity: float
    bits: float


def describe(folder: Path) -> FolderFacts:
    """Read a folder's facts from its files; every linear layer is read once, one at a time."""
    checkpoint = Checkpoint(folder)
    zeros = weights = 0
    bits = 0.0
    for linear in checkpoint.architecture.all_linears(checkpoint.config):
        packed = checkpoint.packed(linear)
        stored = checkpoint.tensor(f"{linear}.weight") if packed is None else packed.codes
        zero = stored == 0 if packed is None else packed.zeros
        zeros += int(zero.sum())
        weights += stored.numel()
        bits += stored.numel() * (8.0 * stored.element_size() if packed is None else packed.bits)
    values: Counter[str] = Counter()
    for name, dtype, count in _headers(checkpoint):
        twice = checkpoint.tied and name.startswith(f"{checkpoint.architecture.head}.")
        own = dtype in _DTYPES.values() and not name.endswith((*PACKED_SUFFIXES, *checkpoint.made))
        if own and not twice:
            values[dtype] += count
    parameters = sum(values.values()) + (weights if checkpoint.packing else 0)
    dtype = values.most_common(1)[0][0]
    beside = ("manifest.json", "statistics")
    total = sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in beside
    )
    return FolderFacts(architecture_name(checkpoint.config), parameters, total, dtype, zeros / weights, bits / weights)


def _headers(checkpoint: Checkpoint) -> list[tuple[str, str, int]]:
    """(name, torch dtype's name, values) of every stored tensor, from the shards' headers alone."""
    found = []
    for file in sorted(set(checkpoint._shards.values())):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a dict)
                header = opened.get_slice(name)
                found.append((name, _DTYPES.get(header.get_dtype(), header.get_dtype()), math.prod(header.get_shape())))
    return found


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def linear_count(folder: Path) -> int:
    """How many linear layers the decoder blocks have: the number of reports that a pass over the folder yields."""
    config = _read_json(folder / "config.json")
    return len(architecture_of(config).all_linears(config))
