"""Measure a candidate beside its baseline: same held-out tokens, same prompt, both reloaded from their folders.

Perplexity is exp(mean negative log likelihood of the next token); agreement is the share of positions where the most
probable next token of both is the same; KL(baseline ‖ candidate) is the mean over positions of Σ p log(p / q) over the
vocabulary, in nats. Blocks are scored one by one and logits made in chunks, so memory does not grow with their number.

Times are of greedy decoding with a key-value cache, candidate and baseline in turn and each first in every other
repeat, so that a machine that slows down meanwhile slows both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from tasks.compression.block_scoring import quality, score_blocks
from tasks.compression.heads import capped, head_cap
from tasks.compression.items import BASELINE, CANDIDATE, PACKED
from tasks.compression.limits import check_tokens
from tasks.compression.loading import head_weight, hidden_states, load_for_compute
from tasks.contracts import Quality, Score

CHUNK_TOKENS = 128
SAMPLE_TOKENS = 24


class Scored(Protocol):
    """A loaded model as scoring needs it, whatever computes it."""

    @property
    def vocabulary(self) -> int: ...

    def logits(self, block: Tensor) -> Iterator[Tensor]:
        """Float32 (part, vocabulary) for ``block`` (length,), part by part of at most ``CHUNK_TOKENS`` positions: the
        first ``length - 1``.
        """
        ...

    def greedy(self, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
        """Every new token and the seconds that it took; the first includes the prefill. ``prompt``: (1, length)."""
        ...


class TorchScored:
    """A model that ``load_for_compute`` gave."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._head, self._cap = model, head_weight(model), head_cap(model.config)

    @property
    def vocabulary(self) -> int:
        return self._head.shape[0]

    def logits(self, block: Tensor) -> Iterator[Tensor]:
        with torch.inference_mode():
            hidden = hidden_states(self._model, block.unsqueeze(0).to(self._head.device))[0, :-1]
        for start in range(0, len(hidden), CHUNK_TOKENS):
            # Not around the yield: two of these are read in turn, and each would give back the other's mode.
            with torch.inference_mode():
                logits = capped(functional.linear(hidden[start : start + CHUNK_TOKENS], self._head), self._cap)
            yield logits

    def greedy(self, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
        return _greedy(self._model, prompt.to(self._head.device), new_tokens)


@dataclass
class Times:
    """Seconds: one first token a repeat, and ``new_tokens - 1`` following ones a repeat."""

    first: list[float] = field(default_factory=list)
    following: list[list[float]] = field(default_factory=list)


def score_pair(
    candidate: Path,
    baseline: Path,
    tokens: Tensor,
    *,
    prompt: Tensor,
    new_tokens: int = 16,
    repeats: int = 3,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Score, Score]:
    """Load both folders and score them. Returns candidate, baseline.

    Args:
        tokens: (blocks, length) held-out integers; each block gives ``length - 1`` positions.
        prompt: (length,) or (1, length) integers that decoding starts from.
        new_tokens: tokens decoded a repeat, at least 2.
        repeats: timed repeats after one that is not counted.
        on_progress: told the share of the work done, 0 to 1.

    Raises:
        RefusedData: no tokens, or ids outside the vocabulary.
        RefusedModel: a folder cannot be read, or the vocabularies differ.
        SlimlineError: a perplexity is not finite.
    """
    models = [TorchScored(load_for_compute(folder)) for folder in (candidate, baseline)]
    scores = score_models(
        (models[0], folder_bytes(candidate)),
        (models[1], folder_bytes(baseline)),
        tokens,
        prompt=prompt,
        new_tokens=new_tokens,
        repeats=repeats,
        on_progress=on_progress,
    )
    return scores[0], scores[1]


def score_models(
    candidate: tuple[Scored, int],
    baseline: tuple[Scored, int],
    tokens: Tensor,
    *,
    prompt: Tensor,
    beside: tuple[Scored, int] | None = None,
    new_tokens: int = 16,
    repeats: int = 3,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Score, Score, Quality | None]:
    """As ``score_pair``, of loaded models, each with the bytes of its folder.

    ``beside`` is another form of the candidate: its quality on the same positions is the last of the three results; it
    is not timed.
    """
    if new_tokens < 2 or repeats < 1:
        raise ValueError(f"timing needs at least 2 new tokens and 1 repeat, not {new_tokens} and {repeats}")
    forms = {CANDIDATE: candidate[0], BASELINE: baseline[0]} | ({PACKED: beside[0]} if beside else {})
    runs, done = len(tokens) + 2 * (repeats + 1), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done / runs)

    check_prompt(candidate[0], prompt)
    scores = score_blocks(forms, tokens, advance=advance)
    times = time_pair(candidate[0], baseline[0], prompt, new_tokens=new_tokens, repeats=repeats, advance=advance)
    return (
        timed(quality(scores, CANDIDATE, candidate[1]), times[0]),
        timed(quality(scores, BASELINE, baseline[1]), times[1]),
        quality(scores, PACKED, beside[1]) if beside else None,
    )


def time_pair(
    candidate: Scored,
    baseline: Scored,
    prompt: Tensor,
    *,
    new_tokens: int = 16,
    repeats: int = 3,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Times, Times]:
    """Time greedy decoding after ``prompt``, both in turn; a first repeat is not counted. ``advance`` after each."""
    times, prompt = (Times(), Times()), prompt.reshape(1, -1).long()
    for repeat in range(repeats + 1):
        for which in (0, 1) if repeat % 2 else (1, 0):
            seconds = [taken for _, taken in (candidate, baseline)[which].greedy(prompt, new_tokens)]
            if repeat:  # the first touches every page and fills the allocator's pools
                times[which].first.append(seconds[0])
                times[which].following.append(seconds[1:])
            advance()
    return times


def check_prompt(model: Scored, prompt: Tensor) -> None:
    """Raises ``RefusedData`` where it is empty or not of the model's vocabulary."""
    check_tokens(prompt.reshape(1, -1).long(), model.vocabulary, least=1)


def sample(model: Scored, tokenizer: Path, prompt: str, *, new_tokens: int = SAMPLE_TOKENS) -> str:
    """What ``model`` writes after ``prompt``, greedily, at most ``new_tokens`` tokens, ending at its end-of-text token.

    Args:
        tokenizer: folder with tokenizer.json, usually the model's own; its ``generation_config.json``, or where there
            is none its ``config.json``, says which tokens end a text.
    """
    coder = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    ids = coder(prompt, return_tensors="pt").input_ids
    written = continuation(model, ids, ending_tokens(tokenizer), new_tokens)
    return cast(str, coder.decode(written, skip_special_tokens=True))


def ending_tokens(folder: Path) -> frozenset[int | None]:
    """The tokens that end a text, as the folder's configuration says."""
    said = folder / "generation_config.json"
    ends = json.loads((said if said.is_file() else folder / "config.json").read_text()).get("eos_token_id")
    return frozenset(ends) if isinstance(ends, list) else frozenset({ends})


def continuation(model: Scored, ids: Tensor, stop: frozenset[int | None], new_tokens: int) -> list[int]:
    """Tokens that ``model`` writes greedily after ``ids`` (1, length), without the one that ends them."""
    written: list[int] = []
    for token, _ in model.greedy(ids, new_tokens):
        if token in stop:
            break
        written.append(token)
    return written


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in ``folder``; the artifact store's own manifest is not part of the model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def _greedy(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
    """Yield every new token and the seconds that it took; the first includes the prefill. ``prompt``: (1, length)."""
    inputs, cache = prompt, None
    for _ in range(new_tokens):
        started = time.perf_counter()
        with torch.inference_mode():
            output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        yield int(inputs), time.perf_counter() - started


def timed(found: Quality, times: Times) -> Score:
    """The figures with those of decoding."""
    return Score(
        **found.model_dump(),
        first_token_ms=1e3 * median(times.first),
        per_token_ms=1e3 * median(each for repeat in times.following for each in repeat),
        repeats_ms=tuple(1e3 * median(repeat) for repeat in times.following),
    )
