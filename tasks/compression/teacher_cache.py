"""A teacher's answers on disk: the k largest log-probabilities a position and the mass of all other tokens.

Computed once, before the first step; after that the teacher need not be in memory, epochs after the first cost no
teacher pass, and another process goes on with the same files. Probabilities are those at the temperature of the loss:
the softened mass of the tokens that are not kept could not be told from the plain one.

Shards of ``SHARD_BLOCKS`` token blocks, safetensors: ``ids`` int32 and ``log_probabilities`` float16 (blocks,
length - 1, k), ``log_remainder`` float16 (blocks, length - 1). That is 6 k + 2 bytes a position, against 4 × vocabulary
for float32 logits.

What is lost, measured on SmolLM2-135M (1,530 positions, a student with noise of a quarter of each weight's spread): at
temperature 1 the 32 likeliest tokens hold 84 % of the mass, forward KL comes out 16 % smaller than the whole one, and
the gradient points the same way (cosine 0.99; Jensen-Shannon 22 % and 0.97). Reverse KL is about what the student puts
on all other tokens: 52 % and 0.68. At temperature 2 the 32 tokens hold 24 % of the mass, and forward KL is 58 % smaller
(0.94). So: temperature 1, and not reverse KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tasks.compression.device import HOST, compute_device
from tasks.compression.heads import capped
from tasks.compression.losses import CHUNK_TOKENS, LargestLogits
from tasks.compression.resuming import Partial

SHARD_BLOCKS = 16
"""Token blocks a file: what a kill costs at most."""
LEAST = -60_000.0
"""Float16 ends at -65,504."""


class TeacherCache:
    """A folder of shards.

    Args:
        partial: the folder; shards that it says are finished are used as they are.
        top_k: tokens kept a position, below the vocabulary.
        temperature: of the loss.
        cap: of the teacher's logits, see ``heads``.
    """

    def __init__(self, partial: Partial, *, top_k: int, temperature: float, cap: float | None = None) -> None:
        self._partial, self._top_k, self._temperature, self._cap = partial, top_k, temperature, cap

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(path.stat().st_size for path in self._partial.files.iterdir())

    def fill(self, tokens: Tensor, teacher: Callable[[], Callable[[Tensor], tuple[Tensor, Tensor]]]) -> None:
        """Compute the shards that are not there yet.

        Args:
            tokens: (blocks, length) integers.
            teacher: loads it, only when a shard is missing; what it returns takes tokens (1, length) and gives hidden
                states (length - 1, width) and the head (vocabulary, width).
        """
        saved = self._partial.read()
        finished = 0 if saved is None else saved.done
        shards = math.ceil(len(tokens) / SHARD_BLOCKS)
        device = compute_device()
        answer = teacher() if finished < shards else None
        for number in range(finished, shards):
            assert answer is not None
            part = tokens[number * SHARD_BLOCKS : (number + 1) * SHARD_BLOCKS]
            kept = [self._largest(*answer(block.unsqueeze(0).long().to(device))).to(HOST) for block in part]
            tensors = {
                "ids": torch.stack([each.ids for each in kept]).int(),
                "log_probabilities": torch.stack([each.log_probabilities for each in kept]).half(),
                "log_remainder": torch.stack([each.log_remainder for each in kept]).half(),
            }
            save_file(tensors, self._shard(number))
            self._partial.write(number + 1, {}, {}, [self._shard(number)])

    def read(self, blocks: Tensor) -> LargestLogits:
        """What was kept for these token blocks, (blocks · (length - 1), …), float32, in their order.

        Float16 leaves the classes' sum up to a thousandth off 1; it is made 1 again.
        """
        rows = [self._read(int(block)) for block in blocks]
        ids, values, remainders = (torch.cat(parts) for parts in zip(*rows, strict=True))
        classes = torch.cat([values, remainders.unsqueeze(1)], dim=1).float().log_softmax(dim=1)
        return LargestLogits(ids.long(), classes[:, :-1], classes[:, -1])

    def _read(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        row = block % SHARD_BLOCKS
        with safe_open(self._shard(block // SHARD_BLOCKS), framework="pt") as file:
            ids, values, remainder = (
                file.get_slice(name)[row].clone() for name in ("ids", "log_probabilities", "log_remainder")
            )
        return ids, values, remainder

    def _shard(self, number: int) -> Path:
        return self._partial.files / f"teacher-{number:05d}.safetensors"

    @torch.inference_mode()
    def _largest(self, hidden: Tensor, head: Tensor) -> LargestLogits:
        """Of one block's positions, in chunks; see ``LargestLogits``."""
        parts = []
        for states in hidden.split(CHUNK_TOKENS):
            logits = capped(functional.linear(states, head), self._cap)
            log_p = functional.log_softmax(logits.div_(self._temperature), dim=-1)
            top = log_p.topk(self._top_k, dim=-1)
            rest = log_p.scatter_(1, top.indices, -torch.inf).logsumexp(1)
            parts.append((top.indices, top.values.clamp_min(LEAST), rest.clamp_min(LEAST)))
        ids, values, remainders = (torch.cat(each) for each in zip(*parts, strict=True))
        return LargestLogits(ids, values, remainders)
