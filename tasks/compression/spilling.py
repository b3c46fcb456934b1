"""Hidden states of all calibration tokens: in memory while they are few, else in a file that the system may write back.

A file that is mapped and has no name any more: its pages are resident while they are used and memory lasts, are written
to disk when something else needs the memory, and are gone with the process, however it ends. Values are the same either
way, bit for bit.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex

import torch
from torch import Tensor

# 32 blocks of 256 tokens of a 135 M model take 19 MB, 128 blocks of 2,048 tokens of a 7 B model 4.3 GB.
SPILL_BYTES = 1 << 30


def allocate(shape: tuple[int, ...], folder: Path | None) -> Tensor:
    """Room for float32 values: in memory, or in a file below ``folder`` where it is more than ``SPILL_BYTES``."""
    values = math.prod(shape)
    if folder is None or 4 * values <= SPILL_BYTES:
        return torch.empty(shape)
    path = folder / f"states-{uuid.uuid4().hex}"
    try:
        return torch.from_file(str(path), shared=True, size=values, dtype=torch.float32).view(shape)
    finally:
        path.unlink(missing_ok=True)  # the mapping stays until the tensor goes


class HiddenStates(list[Tensor]):
    """Batches (rows, block_tokens, hidden), replaced one by one by what a decoder block makes of them.

    Where they lie in a file, what replaces a batch is copied to the batch's place in it. A batch may be let go for a
    while by an empty tensor in its place.
    """

    def __init__(self, batches: Iterable[Tensor], *, on_disk: bool = False) -> None:
        super().__init__(batches)
        self._places = list(self) if on_disk else None

    @classmethod
    def kept(cls, batches: list[Tensor], folder: Path | None) -> HiddenStates:
        """Batches that another process left, in memory or in a file."""
        if folder is None or sum(batch.nbytes for batch in batches) <= SPILL_BYTES:
            return cls(batches)
        room = allocate((sum(batch.shape[0] for batch in batches), *batches[0].shape[1:]), folder)
        places = room.split([batch.shape[0] for batch in batches])
        for place, batch in zip(places, batches, strict=True):
            place.copy_(batch)
        return cls(places, on_disk=True)

    def cut(self, rows: int) -> None:
        """Make every batch at most ``rows`` rows."""
        self[:] = [part for batch in self for part in batch.split(rows)]
        if self._places is not None:
            self._places = list(self)

    def replace(self, number: SupportsIndex, states: Tensor) -> None:
        """Put ``states`` in the place of a batch."""
        if self._places is not None and states.numel():
            states = self._places[number].copy_(states)
        self[number] = states
