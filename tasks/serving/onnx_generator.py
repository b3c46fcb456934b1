"""An exported ONNX folder that generates text on the CPU: the same requests and answers as ``Generator``, no torch.

Greedy unless asked to sample. Sampling draws from numpy's PCG64: the same seed gives the same text here, not the same
as torch gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tasks.serving.onnx_session import Cache, Floats, Integers, OnnxDecoder
from tasks.serving.payload import Interrupted, Request, Tell, before_stop, check_lengths
from tasks.serving.token_stream import Pieces


class OnnxGenerator:
    """A loaded model and its tokenizer. Not thread-safe: one thread owns it."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load ``folder``.

        Raises:
            OSError, ValueError: a file is missing or is not what its name says.
            onnxruntime's own errors: the graph or its weights are damaged.
        """
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.context = int(config["max_position_embeddings"])
        self._ends = _end_tokens(folder, config)
        self._first: int = config.get("bos_token_id") or 0
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.is_file():
            raise FileNotFoundError(f"{tokenizer.name}: not in the model folder")
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.decoder = OnnxDecoder(folder, threads)

    def check(self) -> None:
        """Generate one real token. Raises what the runtime raises, and ``ValueError`` for logits not finite."""
        if not np.isfinite(self.decoder.logits(np.array([[self._first]]))).all():
            raise ValueError("the model's first logits are not finite: NaN or infinity in its weights")
        self.generate(Request(prompts=("Hello",), max_new_tokens=1), lambda: False)

    def generate(self, request: Request, stop: Callable[[], bool], tell: Tell | None = None) -> list[str]:
        """One text a prompt, in order. ``stop`` is asked after every token, and after every part of a prompt; ``tell``
        is told each token of an only prompt.

        Raises:
            BadRequest: a prompt has no tokens, or prompt and answer do not fit the model's context.
            Interrupted: ``stop`` said so.
        """
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(list(request.prompts))]
        check_lengths([len(ids) for ids in encoded], request.max_new_tokens, self.context)
        answers = _Answers(self.tokenizer, self._ends, request)
        cache = Cache(self.decoder, len(encoded), max(map(len, encoded)) + request.max_new_tokens)
        logits = np.zeros((len(encoded), self.decoder.vocabulary), np.float32)
        for row, ids in enumerate(encoded):
            for last in cache.prefill(row, np.array(ids, np.int64)):
                logits[row] = last
                _ask(stop)
        pieces = Pieces(self.tokenizer.decode, request.stop, tell) if tell else None
        while True:
            tokens = answers.add(logits)
            if pieces:
                pieces.add(int(tokens[0]))
            if not answers.going.any():
                break
            logits = cache.step(tokens, answers.going)
            _ask(stop)
        _ask(stop)
        texts = [before_stop(text, request.stop) for text in answers.texts()]
        if request.return_full_text:
            return [prompt + text for prompt, text in zip(request.prompts, texts, strict=True)]
        return texts


def _ask(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted


def _end_tokens(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """As transformers does: generation_config.json where there is one, config.json where there is none."""
    path = folder / "generation_config.json"
    said = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else config).get("eos_token_id")
    return frozenset([said] if isinstance(said, int) else said or ())


class _Answers:
    """What has been generated so far. ``going``: bool (rows,), the rows that want another token."""

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int], request: Request) -> None:
        self._tokenizer, self._ends, self._request = tokenizer, ends, request
        self._random = np.random.default_rng(request.seed)
        self._tokens: list[list[int]] = [[] for _ in request.prompts]
        self.going: NDArray[np.bool_] = np.ones(len(request.prompts), np.bool_)

    def add(self, logits: Floats) -> Integers:
        """Choose a token (rows,) for each row that is going from ``logits`` (rows, vocabulary)."""
        chosen = np.zeros(len(logits), np.int64)
        for row in np.flatnonzero(self.going):
            chosen[row] = choose(logits[row], self._request, self._random)
            tokens = self._tokens[row]
            tokens.append(int(chosen[row]))
            ended = tokens[-1] in self._ends or len(tokens) == self._request.max_new_tokens
            self.going[row] = not (ended or self._stopped(tokens))
        return chosen

    def _stopped(self, tokens: Sequence[int]) -> bool:
        if not self._request.stop:
            return False
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in self._request.stop)

    def texts(self) -> list[str]:
        return self._tokenizer.decode_batch(self._tokens)


def choose(logits: Floats, request: Request, random: np.random.Generator) -> int:
    """The most probable token, or one drawn from the smallest set that holds ``top_p`` of the probability.

    Nucleus sampling: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    if not request.do_sample:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / request.temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    cumulated = np.cumsum(weights[order])
    kept = int(np.searchsorted(cumulated, request.top_p)) + 1
    # The last sum may fall short of 1 by rounding; top_p of 1 keeps every token.
    kept = min(kept, len(order))
    return int(order[np.searchsorted(cumulated[:kept], random.random() * cumulated[kept - 1], side="right")])
