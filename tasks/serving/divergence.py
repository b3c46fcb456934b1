"""How far two answers to the same request lie apart: bytes in, figures out.

An answer is what the inference containers give: ``[{"generated_text": …}]`` or ``{"generated_text": …}``, with
``details.top_tokens`` (the likeliest tokens of each position with their log-probabilities, as LMI and TGI give them for
``top_n_tokens``) where it was asked for. Anything else is compared as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"\w+|[^\w\s]")  # words and signs: the same for every model, whatever its tokenizer
_SHOWN = 4000  # characters of a text that are kept


@dataclass(frozen=True)
class Divergence:
    """Two answers to one request.

    Attributes:
        request, baseline, candidate: the texts, cut at 4,000 characters.
        agreement: share of equal tokens in order, up to the shorter answer; 1 where both are empty.
        same: whether the answers are equal.
        drift: tokens of the candidate's answer less the baseline's.
        kl: see ``divergence``; none where not both answers have log-probabilities.
    """

    request: str
    baseline: str
    candidate: str
    agreement: float
    same: bool
    drift: int
    kl: float | None


def compare(request: str, baseline: str, candidate: str) -> Divergence:
    """Compare the bodies of two answers to the body of one request."""
    prompt = _prompt(request)
    (old, old_top), (new, new_top) = (_read(answer, prompt) for answer in (baseline, candidate))
    mine, base = _TOKEN.findall(new), _TOKEN.findall(old)
    shorter = min(len(mine), len(base))
    equal = sum(a == b for a, b in zip(mine, base, strict=False))
    return Divergence(
        request=request[:_SHOWN],
        baseline=old[:_SHOWN],
        candidate=new[:_SHOWN],
        agreement=equal / shorter if shorter else float(mine == base),
        same=old == new,
        drift=len(mine) - len(base),
        kl=divergence(old_top, new_top) if old_top and new_top else None,
    )


Top = Sequence[Mapping[str, float]]  # log-probability by token, of each position


def divergence(baseline: Top, candidate: Top) -> float | None:
    """Mean KL(baseline ‖ candidate) in nats a token, over the positions up to the first where the likeliest differ.

    After it the two read different texts. Only the likeliest tokens are known, so what both know is compared and the
    rest counts as one token: by the data processing inequality the true divergence is at least this.
    """
    found = []
    for base, mine in zip(baseline, candidate, strict=False):
        if not base or not mine:
            break
        found.append(_position(base, mine))
        if max(base, key=base.__getitem__) != max(mine, key=mine.__getitem__):
            break
    return sum(found) / len(found) if found else None


def _position(base: Mapping[str, float], mine: Mapping[str, float]) -> float:
    known = [(math.exp(base[token]), math.exp(mine[token])) for token in base.keys() & mine.keys()]
    rest = tuple(max(1e-9, 1 - sum(pair[side] for pair in known)) for side in (0, 1))
    return max(0.0, sum(p * math.log(p / q) for p, q in [*known, rest] if p > 0 and q > 0))


def _read(answer: str, prompt: str) -> tuple[str, Top]:
    """The generated text without the prompt, and the likeliest tokens where they are there."""
    try:
        said = json.loads(answer)
    except ValueError:
        return answer, ()
    first: Any = said[0] if isinstance(said, list) and said else said
    if not isinstance(first, dict) or not isinstance(first.get("generated_text"), str):
        return answer, ()
    details = first.get("details")
    top = details.get("top_tokens") if isinstance(details, dict) else None
    return first["generated_text"].removeprefix(prompt), _tops(top)


def _tops(top: Any) -> Top:
    try:
        return [{str(token["id"]): float(token["logprob"]) for token in position} for position in top or ()]
    except (TypeError, KeyError, ValueError):
        return ()


def _prompt(request: str) -> str:
    try:
        inputs = json.loads(request)["inputs"]
    except (ValueError, TypeError, KeyError):
        return ""
    return inputs if isinstance(inputs, str) else ""
