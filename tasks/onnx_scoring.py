"""An exported folder scored by the code that serves it: the container's own session, fed with held-out tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.compression.scoring import CHUNK_TOKENS
from tasks.errors import RefusedData
from tasks.serving.onnx_session import Cache, OnnxDecoder


class OnnxScored:
    """What ``tasks.compression.scoring`` asks of a model, answered by ONNX Runtime."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load ``folder``, which holds ``model.onnx``. Raises what the runtime raises."""
        self._decoder = OnnxDecoder(folder, threads)
        self._context = int(json.loads((folder / "config.json").read_text())["max_position_embeddings"])

    @property
    def vocabulary(self) -> int:
        return self._decoder.vocabulary

    def logits(self, block: Tensor) -> Iterator[Tensor]:
        """Float32 (part, vocabulary) for the first ``length - 1`` positions of ``block`` (length,), part by part.

        Raises:
            RefusedData: the block is longer than the model's context.
        """
        tokens = block.numpy()[None, :-1]
        if tokens.shape[1] > self._context:
            raise RefusedData(
                "held-out blocks are longer than the model's context",
                observed=f"{tokens.shape[1] + 1} tokens",
                limit=f"{self._context} tokens",
                remedy="lower the tokens a block",
            )
        cache = Cache(self._decoder, 1, tokens.shape[1])
        for start in range(0, tokens.shape[1], CHUNK_TOKENS):
            yield torch.from_numpy(cache.feed(0, tokens[:, start : start + CHUNK_TOKENS], every=True)[0])

    def greedy(self, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
        """Every new token and the seconds that it took; the first includes the prefill. ``prompt``: (1, length)."""
        started = time.perf_counter()
        cache = Cache(self._decoder, 1, prompt.shape[1] + new_tokens)
        *_, last = cache.prefill(0, prompt.numpy()[0])
        token = int(last.argmax())
        yield token, time.perf_counter() - started
        for _ in range(new_tokens - 1):
            started = time.perf_counter()
            token = int(cache.step(np.array([token]), np.array([True]))[0].argmax())
            yield token, time.perf_counter() - started
