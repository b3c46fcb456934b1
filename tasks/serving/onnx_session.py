"""A decoder exported to ONNX, run by ONNX Runtime: tokens in, logits out, the key-value cache written in place.

What the graph expects is described where it is written, ``tasks/compression/onnx_decoder.py``. Only numpy and
onnxruntime. Source: https://onnxruntime.ai/docs/api/python/api_summary.html (IOBinding, OrtValue, SessionOptions).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import OrtValue

MODEL = "model.onnx"
CHUNK = 256  # tokens of a prompt at a time: attention's memory grows with this times the prompt's length
ROUND = 64  # buffers are sized in steps of this many tokens

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class OnnxDecoder:
    """One loaded graph. Not thread-safe.

    Args:
        folder: holds ``model.onnx`` and what it refers to.
        threads: of one multiplication; they sleep while there is nothing to do.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        inputs = {item.name: item.shape for item in self.session.get_inputs()}
        self.past = [name for name in inputs if name.startswith("past_key_values.")]
        self.kv_heads, self.head_size = inputs[self.past[0]][1], inputs[self.past[0]][3]
        self.vocabulary: int = self.session.get_outputs()[0].shape[-1]

    def logits(self, tokens: Integers) -> Floats:
        """(1, length, vocabulary) for ``tokens`` (1, length) and nothing before them."""
        cache = Cache(self, 1, tokens.shape[1])
        parts = [tokens[:, start : start + CHUNK] for start in range(0, tokens.shape[1], CHUNK)]
        return np.concatenate([cache.feed(0, part, every=True) for part in parts], axis=1)


class Cache:
    """Keys and values of ``rows`` texts, each of at most ``capacity`` tokens."""

    def __init__(self, decoder: OnnxDecoder, rows: int, capacity: int) -> None:
        capacity = -(-capacity // ROUND) * ROUND
        shape = (rows, decoder.kv_heads, capacity, decoder.head_size)
        self._decoder = decoder
        self._buffers = {name: np.zeros(shape, np.float32) for name in decoder.past}
        self.lengths = np.zeros(rows, np.int32)
        self._token = np.zeros((rows, 1), np.int64)
        self._last = np.zeros(rows, np.int32)
        self._total = np.zeros((), np.int32)
        self._logits = np.zeros((rows, 1, decoder.vocabulary), np.float32)
        self._step: Any = None

    def feed(self, row: int, tokens: Integers, *, every: bool = False) -> Floats:
        """Append ``tokens`` (1, length) to one row; logits of the last one, or of ``every`` one: (1, P, vocabulary)."""
        length = tokens.shape[1]
        total = int(self.lengths[row]) + length
        positions = np.arange(length) if every else np.array([length - 1])
        logits = np.zeros((1, len(positions), self._decoder.vocabulary), np.float32)
        binding = self._bind(
            slice(row, row + 1),
            np.ascontiguousarray(tokens, np.int64),
            np.array([total - 1], np.int32),
            np.array(total, np.int32),
            positions.astype(np.int64),
            logits,
        )
        self._decoder.session.run_with_iobinding(binding)
        self.lengths[row] = total
        return logits

    def prefill(self, row: int, tokens: Integers) -> Iterator[Floats]:
        """Append a prompt (length,) part by part; the logits (vocabulary,) of the last token so far, after each."""
        for start in range(0, len(tokens), CHUNK):
            yield self.feed(row, tokens[None, start : start + CHUNK])[0, 0]

    def step(self, tokens: Integers, going: NDArray[np.bool_]) -> Floats:
        """Append one token (rows,) to each row that is ``going``; logits (rows, vocabulary), valid until the next call.

        The other rows are computed and keep their length.
        """
        if self._step is None:  # bound once: only the contents of these arrays change from step to step
            here = np.zeros(1, np.int64)
            self._step = self._bind(slice(None), self._token, self._last, self._total, here, self._logits)
        self._token[:, 0] = tokens
        # A row that has ended overwrites its last place again and again.
        self._last[:] = np.where(going, self.lengths, self.lengths - 1)
        self._total[...] = self._last.max() + 1
        self._decoder.session.run_with_iobinding(self._step)
        self.lengths += going
        return self._logits[:, 0]

    def _bind(self, rows: slice, tokens: Integers, last: Any, total: Any, positions: Integers, logits: Floats) -> Any:
        # On the CPU an OrtValue made of an array is that array: outputs bound to the inputs' buffers write in place.
        binding = self._decoder.session.io_binding()
        values = {
            "input_ids": tokens,
            "seqlens_k": last,
            "total_sequence_length": total,
            "logit_positions": positions,
        }
        for name, value in values.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
        binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(logits))
        for name, buffer in self._buffers.items():
            shared = OrtValue.ortvalue_from_numpy(buffer[rows])
            binding.bind_ortvalue_input(name, shared)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), shared)
        return binding
