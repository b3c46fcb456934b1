"""Write a Hugging Face folder one shard a decoder block; config.json comes last, and a failed write leaves nothing."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.compression.architectures import block_count
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.hessian import InputStatistics
from tasks.compression.mixed import Grids
from tasks.compression.packing import PACKED_SUFFIXES
from tasks.compression.resuming import Partial, Saved
from tasks.compression.shards import INDEX
from tasks.compression.statistics import FOLDER, file_name, save_statistics
from tasks.compression.streaming import Streamed, save_streamed

# What the tokenizer, generation and the licence need beside weights and config.json. Other files stay behind.
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "generation_config.json",
    "chat_template*",
    "additional_chat_templates/*",
    "LICENSE*",
    "NOTICE*",
)


def fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether every value is within ``dtype``'s range; float16 ends at 65,504."""
    return tensor.numel() == 0 or float(tensor.abs().max()) <= torch.finfo(dtype).max


def as_stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor`` in ``dtype``, or in float32 where a value would overflow. The caller reports the latter (``fits``)."""
    return tensor.to(dtype if fits(tensor, dtype) else torch.float32).contiguous()


def discard(folder: Path, *, whole: bool) -> None:
    """Remove everything in ``folder``; with ``whole`` the folder too."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if whole:
        folder.rmdir()


class FolderWriter:
    """A new folder made from ``source``: same tokenizer and configuration, new tensors.

    Use as a context manager: write every block, then the rest, in any order. Leaving it well writes the index, copies
    the tokenizer's files and writes config.json last; leaving it by an exception removes what was written. Shards are
    ``model-00001-of-000NN.safetensors`` for block 0 and so on; the last one holds embeddings, final norm and head.

    Args:
        source: the folder that configuration and tokenizer come from.
        destination: absent, or an empty folder.
        packing: the grids when linear layers are packed, or none for a dense folder.
        config: config.json of the new folder where it is another shape than the source's.
        quantization: ``quantization_config`` of the new folder where it is not that of ``packing``.
        partial: where shards wait until all are written, so that another process can go on with them (``resume``,
            ``save``); without it an interrupted write starts from the beginning.
    """

    def __init__(
        self,
        source: Checkpoint,
        destination: Path,
        packing: Grids | None = None,
        partial: Partial | None = None,
        config: dict[str, Any] | None = None,
        quantization: dict[str, Any] | None = None,
    ) -> None:
        self._quantization = quantization
        self._source, self._destination, self._packing, self._partial = source, destination, packing, partial
        self._shape = source.config if config is None else config
        self._blocks = block_count(self._shape)
        self._folder = destination if partial is None else partial.files
        self._shards: dict[str, str] = {}
        self._values: Counter[torch.dtype] = Counter()
        self._bytes = 0

    @property
    def scratch(self) -> Path:
        """A folder on the disk that the model is written to."""
        return self._folder

    def __enter__(self) -> FolderWriter:
        self._made = not self._destination.exists()
        self._destination.mkdir(parents=True, exist_ok=True)
        if any(self._destination.iterdir()):
            raise FileExistsError(f"{self._destination} is not empty")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
            return
        discard(self._destination, whole=self._made)

    def resume(self) -> Saved | None:
        """What an earlier process finished: the first ``done`` blocks are written. None when there is nothing."""
        saved = None if self._partial is None else self._partial.read()
        for number in range(1, saved.done + 1 if saved else 1):
            for name, tensor in load_file(self._folder / self._shard(number)).items():
                self._note(number, name, tensor.dtype, tensor.shape)
        return saved

    def save(self, done: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Note that ``done`` blocks are written and what the next one starts from; nothing without ``partial``."""
        if self._partial is not None:
            written = [self._folder / self._shard(done), self._folder / file_name(done - 1)]
            self._partial.write(done, tensors, notes, [file for file in written if file.exists()])

    def write_block(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Write every tensor of decoder block ``index``, by full name."""
        self._write(index + 1, tensors)

    def write_outer(self, tensors: Mapping[str, Tensor]) -> None:
        """Write every tensor outside the blocks, by full name; a tied head is left out."""
        self._write(self._blocks + 1, tensors)

    def stream_outer(self, tensors: Mapping[str, Streamed]) -> None:
        """As ``write_outer``, without holding them."""
        save_streamed(self._folder / self._shard(self._blocks + 1), tensors)
        for name, tensor in tensors.items():
            self._note(self._blocks + 1, name, tensor.dtype, tensor.shape)

    def write_statistics(self, index: int, groups: Mapping[str, InputStatistics], tokens_digest: str) -> None:
        """Keep block ``index``'s statistics for a pass that comes next; they lie beside the model, not in it."""
        save_statistics(self._folder / file_name(index), groups, tokens_digest)

    def _shard(self, number: int) -> str:
        return f"model-{number:05d}-of-{self._blocks + 1:05d}.safetensors"

    def _write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        save_file(dict(tensors), self._folder / self._shard(number), metadata={"format": "pt"})
        for name, tensor in tensors.items():
            self._note(number, name, tensor.dtype, tensor.shape)

    def _note(self, number: int, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self._shards[name] = self._shard(number)
        self._bytes += math.prod(shape) * dtype.itemsize
        if dtype.is_floating_point and not name.endswith(PACKED_SUFFIXES):
            self._values[dtype] += math.prod(shape)

    def _finish(self) -> None:
        if self._folder != self._destination:
            for shard in sorted(set(self._shards.values())):
                _hand_over(self._folder / shard, self._destination / shard)
        for kept in sorted(self._folder.glob("statistics-*.safetensors")):
            (self._destination / FOLDER).mkdir(exist_ok=True)
            hand_over = shutil.move if self._partial is None else _hand_over
            hand_over(kept, self._destination / FOLDER / kept.name)
        for pattern in COMPANIONS:
            for path in sorted(self._source.folder.glob(pattern)):
                target = self._destination / path.relative_to(self._source.folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        index = {"metadata": {"total_size": self._bytes}, "weight_map": dict(sorted(self._shards.items()))}
        write_json(self._destination / INDEX, index)
        write_json(self._destination / "config.json", self._config())

    def _config(self) -> dict[str, Any]:
        config = {key: value for key, value in self._shape.items() if key != "torch_dtype"}
        # One tensor that had to stay float32 makes the folder float32: loading it as float16 would overflow.
        widest = torch.float32 if torch.float32 in self._values else self._values.most_common(1)[0][0]
        config["dtype"] = str(widest).removeprefix("torch.")
        config.pop("quantization_config", None)
        if self._packing is not None:
            config["quantization_config"] = self._packing.to_config(self._source.architecture.outside)
        if self._quantization is not None:
            config["quantization_config"] = self._quantization
        return config


def _hand_over(file: Path, target: Path) -> None:
    """Give ``file`` a second name: a process that is killed before the new folder is committed leaves the first one."""
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links, where such a process begins again
        shutil.move(file, target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
