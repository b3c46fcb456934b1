"""Measure a candidate beside its baseline: same held-out tokens, same prompt, both reloaded from their folders.

Perplexity is exp(mean negative log likelihood of the next token); agreement is the share of positions where the most
probable next token of both is the same; KL(baseline ‖ candidate) is the mean over positions of Σ p log(p / q) over the
vocabulary, in nats. Blocks are scored one by one and logits made in chunks, so memory does not grow with their number.

Times are of greedy decoding with a key-value cache, candidate and baseline in turn and each first in every other
repeat, so that a machine that slows down meanwhile slows both.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from tasks.compression.heads import capped, head_cap
from tasks.compression.loading import check_tokens, head_weight, hidden_states, load_for_compute
from tasks.contracts import Quality, Score
from tasks.errors import RefusedModel, SlimlineError

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
class _Tally:
    """Sums over scored positions of one model, double precision."""

    positions: int = 0
    nll: float = 0.0
    agreed: int = 0
    kl: float = 0.0


@dataclass
class _Times:
    """Seconds: one first token a repeat, ``new_tokens - 1`` following ones."""

    first: list[float] = field(default_factory=list)
    following: list[float] = field(default_factory=list)


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
    forms = [("candidate", *candidate), ("baseline", *baseline)]
    forms += [("compressed folder", *beside)] if beside else []
    prompt = prompt.reshape(1, -1).long()
    _check_alike([model for _, model, _ in forms], tokens, prompt)
    runs, done = len(tokens) + 2 * (repeats + 1), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done / runs)

    tallies = [_Tally() for _ in forms]
    for block in tokens:
        _score_block([model for _, model, _ in forms], block.long(), tallies)
        advance()
    times = _Times(), _Times()
    for repeat in range(repeats + 1):
        for which in (0, 1) if repeat % 2 else (1, 0):
            seconds = [taken for _, taken in forms[which][1].greedy(prompt, new_tokens)]
            if repeat:  # the first touches every page and fills the allocator's pools
                times[which].first.append(seconds[0])
                times[which].following.extend(seconds[1:])
            advance()
    qualities = [_quality(name, size, tally) for (name, _, size), tally in zip(forms, tallies, strict=True)]
    scores = [_timed(quality, taken) for quality, taken in zip(qualities[:2], times, strict=True)]
    return scores[0], scores[1], qualities[2] if beside else None


def _check_alike(models: Sequence[Scored], tokens: Tensor, prompt: Tensor) -> None:
    sizes = [model.vocabulary for model in models]
    if len(set(sizes)) > 1:
        raise RefusedModel(
            "candidate and baseline do not share a vocabulary",
            observed=f"candidate {sizes[0]}, baseline {sizes[1]} tokens",
            limit="the same",
            remedy="compare with the model that the candidate was made from",
        )
    check_tokens(tokens, sizes[0])
    check_tokens(prompt, sizes[0], least=1)


def sample(model: Scored, tokenizer: Path, prompt: str, *, new_tokens: int = SAMPLE_TOKENS) -> str:
    """What ``model`` writes after ``prompt``, greedily, at most ``new_tokens`` tokens, ending at its end-of-text token.

    Args:
        tokenizer: folder with tokenizer.json, usually the model's own; its ``generation_config.json``, or where there
            is none its ``config.json``, says which tokens end a text.
    """
    coder = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    ids = coder(prompt, return_tensors="pt").input_ids
    said = tokenizer / "generation_config.json"
    ends = json.loads((said if said.is_file() else tokenizer / "config.json").read_text()).get("eos_token_id")
    stop = set(ends) if isinstance(ends, list) else {ends}
    written: list[int] = []
    for token, _ in model.greedy(ids, new_tokens):
        if token in stop:
            break
        written.append(token)
    return cast(str, coder.decode(written, skip_special_tokens=True))


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in ``folder``; the artifact store's own manifest is not part of the model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


def _score_block(models: Sequence[Scored], block: Tensor, tallies: Sequence[_Tally]) -> None:
    """Add one block's positions, (length,) tokens. The second model is what all are compared with."""
    targets = block[1:].unsqueeze(1)
    start = 0
    for parts in zip(*(model.logits(block) for model in models), strict=True):
        with torch.inference_mode():
            logs = [functional.log_softmax(part.to(parts[1].device), dim=-1) for part in parts]
            aim, log_p = targets[start : start + len(parts[0])].to(logs[1].device), logs[1]
            for log_q, tally in zip(logs, tallies, strict=True):
                tally.nll -= float(log_q.gather(1, aim).double().sum())
                tally.agreed += int((log_q.argmax(-1) == log_p.argmax(-1)).sum())
                if log_q is not log_p:
                    tally.kl += float(torch.linalg.vecdot(log_p.exp(), log_p - log_q).double().sum())
                tally.positions += len(aim)
        start += len(aim)


def _greedy(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
    """Yield every new token and the seconds that it took; the first includes the prefill. ``prompt``: (1, length)."""
    inputs, cache = prompt, None
    for _ in range(new_tokens):
        started = time.perf_counter()
        with torch.inference_mode():
            output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        yield int(inputs), time.perf_counter() - started


def _quality(name: str, size: int, tally: _Tally) -> Quality:
    mean = tally.nll / tally.positions
    perplexity = math.exp(mean) if mean < 700 else math.nan if math.isnan(mean) else math.inf
    if not math.isfinite(perplexity):
        raise SlimlineError(
            f"the {name}'s perplexity is not a number",
            observed=f"{perplexity}, mean negative log likelihood {mean}",
            limit="finite",
            remedy="the original itself is damaged: get the model again"
            if name == "baseline"
            else "compress less: more bits, a smaller group, less sparsity, a lower learning rate",
        )
    return Quality(
        perplexity=perplexity,
        agreement=tally.agreed / tally.positions,
        kl=max(0.0, tally.kl / tally.positions),
        bytes=size,
        tokens=tally.positions,
    )


def _timed(quality: Quality, times: _Times) -> Score:
    return Score(
        **quality.model_dump(),
        first_token_ms=1e3 * median(times.first),
        per_token_ms=1e3 * median(times.following),
    )
