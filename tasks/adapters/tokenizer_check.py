"""Does this tokenizer belong to this text? Unknown tokens, what comes back, and bytes a token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from tasks.adapters.duplicates import words_in
from tasks.errors import RefusedData

SAMPLE = 64  # documents; a tokenizer of another kind shows in the first few
MOST_UNKNOWN = 0.01
LEAST_BACK = 0.90


@dataclass(frozen=True)
class Fit:
    """On a sample of documents: shares 0–1."""

    unknown: float
    back: float
    bytes_a_token: float


def check_tokenizer(tokenizer: Tokenizer, documents: Sequence[str]) -> Fit:
    """Tokenize a sample and put it together again.

    Raises:
        RefusedData: too many tokens mean "unknown", or too few of the words come back.
    """
    sample = list(documents[:SAMPLE])
    encoded = tokenizer.encode_batch(sample, add_special_tokens=False)
    ids = [encoding.ids for encoding in encoded]
    unknown = _unknown(tokenizer)
    tokens = sum(map(len, ids))
    missed = 0 if unknown is None else sum(each.count(unknown) for each in ids)
    back = _words_back(sample, tokenizer.decode_batch(ids, skip_special_tokens=False))
    size = sum(len(document.encode()) for document in sample)
    fit = Fit(missed / tokens if tokens else 0.0, back, size / tokens if tokens else 0.0)
    if fit.unknown > MOST_UNKNOWN:
        raise _refused(f"{fit.unknown:.1%} of the tokens are unknown", f"at most {MOST_UNKNOWN:.0%}")
    if fit.back < LEAST_BACK:
        raise _refused(f"{fit.back:.0%} of the words come back from their tokens", f"at least {LEAST_BACK:.0%}")
    return fit


def _unknown(tokenizer: Tokenizer) -> int | None:
    """The id of the token for what the vocabulary lacks; none where nothing is lacking (bytes)."""
    said = json.loads(tokenizer.to_str())["model"]
    if isinstance(said.get("unk_id"), int):
        return int(said["unk_id"])
    token = said.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def _words_back(documents: Sequence[str], decoded: Sequence[str]) -> float:
    total = back = 0
    for before, after in zip(documents, decoded, strict=True):
        words = Counter(words_in(before))
        total += words.total()
        back += (words & Counter(words_in(after))).total()
    return back / total if total else 1.0


def _refused(observed: str, limit: str) -> RefusedData:
    return RefusedData(
        "the tokenizer does not fit the text",
        observed=observed,
        limit=limit,
        remedy="put the tokenizer.json that the model was trained with into its folder, or give text in its language",
    )
