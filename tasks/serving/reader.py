"""A Hugging Face encoder that answers questions on the CPU: plain transformers, float32.

An answer is the span of at most ``max_answer_len`` tokens with the largest product of its start's and its end's
probability, each a softmax over the context's tokens in a window, over all windows of the context, as the
question-answering pipeline of transformers 4 had it. Only torch, transformers, tokenizers and the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import AutoModelForQuestionAnswering

from tasks.serving.payload import BadRequest, Interrupted, Tell
from tasks.serving.reader_payload import Pair, QuestionRequest

WINDOW = 384
"""Tokens read at once, at most."""
STRIDE = 128
"""Tokens that neighbouring windows share unless the request says."""
BATCH = 8
"""Windows computed at once; between batches the caller may stop."""


class Reader:
    """A loaded reader and its tokenizer. Not thread-safe: one thread owns it."""

    def __init__(self, folder: Path) -> None:
        """Load ``folder``.

        Raises:
            OSError, ValueError: the folder is missing, incomplete, or of a kind that plain transformers does not load.
        """
        loaded: Any = AutoModelForQuestionAnswering.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, local_files_only=True,
            trust_remote_code=False,
        )  # fmt: skip
        self.model: Any
        self.model, found = loaded
        # transformers fills a missing tensor with random numbers and goes on, so what it found is looked at.
        wrong = {kind: sorted(map(str, found[kind])) for kind in ("missing_keys", "mismatched_keys") if found[kind]}
        if wrong:
            raise ValueError(f"tensors that do not fit the architecture: {str(wrong)[:500]}")
        self.model.eval()
        config = json.loads((folder / "config.json").read_text())
        self.window = min(WINDOW, int(config.get("max_position_embeddings", WINDOW)))
        self._segments = int(config.get("type_vocab_size", 0)) > 1
        self._coder = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def check(self) -> None:
        """Answer one real question. Raises what the model raises, and ``ValueError`` for logits that are not finite."""
        (answer,) = self.generate(QuestionRequest((Pair("Where?", "Here."),)), lambda: False)
        if not answer["score"] >= 0:
            raise ValueError("the model's first logits are not finite: NaN or infinity in its weights")

    def generate(
        self, request: QuestionRequest, stop: Callable[[], bool], tell: Tell | None = None
    ) -> list[dict[str, Any]]:
        """One answer a question, in order. ``stop`` is asked after every batch of windows.

        Raises:
            BadRequest: a question leaves no room for its context, or a context has no tokens.
            Interrupted: ``stop`` said so.
        """
        return [self._answer(pair, request, stop) for pair in request.pairs]

    def _answer(self, pair: Pair, request: QuestionRequest, stop: Callable[[], bool]) -> dict[str, Any]:
        windows = self._windows(pair, request.doc_stride)
        best: tuple[float, int, int] | None = None
        for first in range(0, len(windows), BATCH):
            for found in self._best(windows[first : first + BATCH], request.max_answer_len):
                if best is None or found[0] > best[0]:
                    best = found
            if stop():
                raise Interrupted
        if best is None:
            raise BadRequest("inputs.context", "no tokens", "a context with at least one token")
        score, start, end = best
        return {"answer": pair.context[start:end], "score": score, "start": start, "end": end}

    def _windows(self, pair: Pair, wanted: int | None) -> list[Encoding]:
        self._coder.no_truncation()
        self._coder.no_padding()
        # The pair's special tokens, at most four, and one token of the context at least.
        room = self.window - len(self._coder.encode(pair.question, add_special_tokens=False).ids) - 4
        stride = max(0, min(STRIDE, room // 2)) if wanted is None else wanted
        if room <= stride:
            limit = f"question and doc_stride together below {self.window - 4} tokens"
            raise BadRequest("inputs.question", f"{self.window - 4 - room} tokens, doc_stride {stride}", limit)
        self._coder.enable_truncation(self.window, stride=stride, strategy="only_second")
        self._coder.enable_padding()
        coded = self._coder.encode(pair.question, pair.context)
        return [window for window in (coded, *coded.overflowing) if 1 in window.sequence_ids]

    @torch.inference_mode()
    def _best(self, windows: list[Encoding], longest: int) -> list[tuple[float, int, int]]:
        """Score and characters of the best span of each window."""
        length = max(len(window.ids) for window in windows)

        def batch(rows: list[list[int]]) -> Tensor:
            return torch.tensor([row + [0] * (length - len(row)) for row in rows])

        inputs = {"input_ids": batch([window.ids for window in windows])}
        inputs["attention_mask"] = batch([window.attention_mask for window in windows])
        if self._segments:
            inputs["token_type_ids"] = batch([window.type_ids for window in windows])
        output = self.model(**inputs)
        inside = batch([[int(number == 1) for number in window.sequence_ids] for window in windows]).bool()
        starts, ends = (
            logits.masked_fill(~inside, -torch.inf).softmax(-1) for logits in (output.start_logits, output.end_logits)
        )
        spans = (starts[:, :, None] * ends[:, None, :]).triu().tril(longest - 1)
        places = spans.flatten(1).argmax(1).tolist()
        found = []
        for number, place in enumerate(places):
            first, last = divmod(place, length)
            offsets = windows[number].offsets
            found.append((float(spans[number, first, last]), offsets[first][0], offsets[last][1]))
        return found
