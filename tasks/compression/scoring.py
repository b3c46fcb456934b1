"""Measure a candidate beside its baseline: same held-out tokens, same prompt, both reloaded from their folders.

Perplexity is exp(mean negative log likelihood of the next token); agreement is the share of positions where the most
probable next token of both is the same; KL(baseline ‖ candidate) is the mean over positions of Σ p log(p / q) over the
vocabulary, in nats. Blocks are scored one by one and logits made in chunks, so memory does not grow with their number.

Times are of greedy decoding with a key-value cache, candidate and baseline in turn and each first in every other
repeat, so that a machine that slows down meanwhile slows both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from tasks.compression.heads import capped, head_cap
from tasks.compression.loading import check_tokens, head_weight, hidden_states, load_for_compute
from tasks.contracts import Score
from tasks.errors import RefusedModel, SlimlineError

CHUNK_TOKENS = 128
SAMPLE_TOKENS = 24


@dataclass
class _Tally:
    """Sums over scored positions, double precision."""

    positions: int = 0
    candidate_nll: float = 0.0
    baseline_nll: float = 0.0
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
    models = load_for_compute(candidate), load_for_compute(baseline)
    sizes = folder_bytes(candidate), folder_bytes(baseline)
    return score_models(
        *models, sizes, tokens, prompt=prompt, new_tokens=new_tokens, repeats=repeats, on_progress=on_progress
    )


def score_models(
    candidate: PreTrainedModel,
    baseline: PreTrainedModel,
    sizes: tuple[int, int],
    tokens: Tensor,
    *,
    prompt: Tensor,
    new_tokens: int = 16,
    repeats: int = 3,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Score, Score]:
    """As ``score_pair``, of models that ``load_for_compute`` gave; ``sizes`` are their folders' bytes."""
    if new_tokens < 2 or repeats < 1:
        raise ValueError(f"timing needs at least 2 new tokens and 1 repeat, not {new_tokens} and {repeats}")
    prompt = prompt.reshape(1, -1)
    heads = head_weight(candidate), head_weight(baseline)
    if heads[0].shape[0] != heads[1].shape[0]:
        raise RefusedModel(
            "candidate and baseline do not share a vocabulary",
            observed=f"candidate {heads[0].shape[0]}, baseline {heads[1].shape[0]} tokens",
            limit="the same",
            remedy="compare with the model that the candidate was made from",
        )
    check_tokens(tokens, heads[0].shape[0])
    check_tokens(prompt, heads[0].shape[0], least=1)
    runs, done = len(tokens) + 2 * (repeats + 1), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done / runs)

    tally = _Tally()
    caps = head_cap(candidate.config), head_cap(baseline.config)
    for block in tokens:
        _score_block((candidate, baseline), heads, caps, block.long(), tally)
        advance()
    times = _Times(), _Times()
    for repeat in range(repeats + 1):
        for which in (0, 1) if repeat % 2 else (1, 0):
            seconds = [taken for _, taken in _greedy((candidate, baseline)[which], prompt.long(), new_tokens)]
            if repeat:  # the first touches every page and fills the allocator's pools
                times[which].first.append(seconds[0])
                times[which].following.extend(seconds[1:])
            advance()
    return (
        _score("candidate", tally.candidate_nll, sizes[0], times[0], tally, tally.agreed, tally.kl),
        _score("baseline", tally.baseline_nll, sizes[1], times[1], tally, tally.positions, 0.0),
    )


def sample(model: PreTrainedModel | Path, tokenizer: Path, prompt: str, *, new_tokens: int = SAMPLE_TOKENS) -> str:
    """What ``model`` writes after ``prompt``, greedily, at most ``new_tokens`` tokens, ending at its end-of-text token.

    Args:
        model: a loaded model (cheap: about a prefill and 24 tokens), or a folder.
        tokenizer: folder with tokenizer.json, usually the candidate's own.
    """
    loaded = load_for_compute(model) if isinstance(model, Path) else model
    coder = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    ids = coder(prompt, return_tensors="pt").input_ids
    ends = getattr(loaded.generation_config, "eos_token_id", None)
    stop = set(ends) if isinstance(ends, list) else {ends}
    written: list[int] = []
    for token, _ in _greedy(loaded, ids, new_tokens):
        if token in stop:
            break
        written.append(token)
    return cast(str, coder.decode(written, skip_special_tokens=True))


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in ``folder``; the artifact store's own manifest is not part of the model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")


@torch.inference_mode()
def _score_block(
    models: tuple[PreTrainedModel, PreTrainedModel],
    heads: tuple[Tensor, Tensor],
    caps: tuple[float | None, float | None],
    block: Tensor,
    tally: _Tally,
) -> None:
    """Add one block's positions. ``block``: (length,) tokens."""
    hidden = [hidden_states(model, block.unsqueeze(0))[0, :-1] for model in models]
    targets = block[1:].unsqueeze(1)
    for start in range(0, len(targets), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        log_q, log_p = (
            functional.log_softmax(capped(functional.linear(states[part], head), cap), dim=-1)
            for states, head, cap in zip(hidden, heads, caps, strict=True)
        )
        tally.candidate_nll -= float(log_q.gather(1, targets[part]).double().sum())
        tally.baseline_nll -= float(log_p.gather(1, targets[part]).double().sum())
        tally.agreed += int((log_q.argmax(-1) == log_p.argmax(-1)).sum())
        tally.kl += float(torch.linalg.vecdot(log_p.exp(), log_p - log_q).double().sum())
        tally.positions += len(targets[part])


def _greedy(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> Iterator[tuple[int, float]]:
    """Yield every new token and the seconds that it took; the first includes the prefill. ``prompt``: (1, length)."""
    inputs, cache = prompt, None
    for _ in range(new_tokens):
        started = time.perf_counter()
        with torch.inference_mode():
            output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs, cache = output.logits[:, -1:].argmax(-1), output.past_key_values
        yield int(inputs), time.perf_counter() - started


def _score(name: str, nll: float, size: int, times: _Times, tally: _Tally, agreed: int, kl: float) -> Score:
    mean = nll / tally.positions
    perplexity = math.exp(mean) if mean < 700 else math.nan if math.isnan(mean) else math.inf
    if not math.isfinite(perplexity):
        raise SlimlineError(
            f"the {name}'s perplexity is not a number",
            observed=f"{perplexity}, mean negative log likelihood {mean}",
            limit="finite",
            remedy="compress less: more bits, a smaller group, less sparsity, a lower learning rate"
            if name == "candidate"
            else "the original itself is damaged: get the model again",
        )
    return Score(
        perplexity=perplexity,
        agreement=agreed / tally.positions,
        kl=max(0.0, kl / tally.positions),
        bytes=size,
        first_token_ms=1e3 * median(times.first),
        per_token_ms=1e3 * median(times.following),
        tokens=tally.positions,
    )
