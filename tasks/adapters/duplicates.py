"""Duplicates, near duplicates, and text that two splits share.

Near duplicates are found by MinHash (Broder 1997) over sequences of five words, with bands (Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3), and every pair that is found is then compared exactly: nothing is
dropped on an estimate. Leakage is the share of sequences of 13 words (Brown et al. 2020, appendix C) of one text that
another has too. Words are compared without case, accents' encodings and punctuation.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHINGLE, NGRAM = 5, 13
_BANDS, _ROWS = 32, 4  # a pair of similarity 0.8 is missed once in 10⁷, one of 0.6 once in 90
_ODD = np.uint64(0x9E3779B97F4A7C15)
_ALONE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: each character counts as a word
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")

Hashes = NDArray[np.uint64]


def words_in(text: str) -> list[str]:
    """Its words, compared as people do: compatibility forms and case folded, punctuation left out."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def sequences(words: list[str], length: int) -> Hashes:
    """A sorted set of 64-bit hashes, one a different sequence of ``length`` words; of fewer words, one for all."""
    if not words:
        return np.zeros(0, np.uint64)
    each = np.array([_hash(word) for word in words], np.uint64)
    length = min(length, len(each))
    rolled = np.zeros(len(each) - length + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(length):
            rolled = _mixed(rolled * _ODD + each[place : place + len(rolled)])
    return np.unique(rolled)


class Duplicates:
    """Documents that were taken so far. Deterministic: what is dropped depends on their order alone."""

    def __init__(self, least: float) -> None:
        """``least``: share of five-word sequences, of all that two documents have, from which they are near
        duplicates, 0–1; 0 looks for exact ones only.
        """
        self._least = least
        self._exact: set[bytes] = set()
        self._shingles: list[Hashes] = []
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
        generator = np.random.default_rng(0)
        self._factors = generator.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self.exact = self.near = 0

    def seen(self, text: str) -> bool:
        """Whether ``text`` is a duplicate of one before; if not, it is remembered."""
        words = words_in(text)
        content = hashlib.sha256((" ".join(words) or text).encode()).digest()
        if content in self._exact:
            self.exact += 1
            return True
        if self._least and words:
            shingles = sequences(words, SHINGLE)
            keys = self._keys(shingles)
            if any(_jaccard(shingles, self._shingles[other]) >= self._least for other in self._candidates(keys)):
                self.near += 1
                return True
            for band, key in zip(self._bands, keys, strict=True):
                band.setdefault(key, []).append(len(self._shingles))
            self._shingles.append(shingles)
        self._exact.add(content)
        return False

    def _keys(self, shingles: Hashes) -> list[int]:
        """One key a band: two documents share it with the fourth power of their similarity as probability."""
        with np.errstate(over="ignore"):
            minima = np.concatenate(
                [_mixed(part * shingles[None, :]).min(axis=1) for part in np.split(self._factors, _BANDS)]
            ).reshape(_BANDS, _ROWS)
            folded = np.zeros(_BANDS, np.uint64)
            for row in range(_ROWS):
                folded = _mixed(folded * _ODD + minima[:, row])
        return [int(key) for key in folded]

    def _candidates(self, keys: list[int]) -> set[int]:
        return {other for band, key in zip(self._bands, keys, strict=True) for other in band.get(key, ())}


@dataclass(frozen=True)
class Leakage:
    """What of the evaluation documents the other splits have too."""

    sequences: int
    shared: int
    documents: int
    touched: int

    @property
    def share(self) -> float:
        """Of the evaluation documents' 13-word sequences, 0–1."""
        return self.shared / self.sequences if self.sequences else 0.0


def leakage(evaluation: Iterable[str], others: Iterable[str]) -> Leakage:
    """Compare the evaluation documents with those of the other splits; one of fewer than 13 words counts as one
    sequence. Memory is the evaluation documents' sequences, 8 bytes each.
    """
    held = [sequences(words_in(text), NGRAM) for text in evaluation]
    known = np.unique(np.concatenate(held)) if held else np.zeros(0, np.uint64)
    hit = np.zeros(len(known), bool)
    for text in others:
        part = sequences(words_in(text), NGRAM)
        place = np.minimum(np.searchsorted(known, part), max(len(known) - 1, 0))
        if len(known):
            hit[place[known[place] == part]] = True
    found = [int(hit[np.searchsorted(known, each)].sum()) for each in held]
    return Leakage(sum(map(len, held)), sum(found), len(held), sum(map(bool, found)))


def _jaccard(one: Hashes, other: Hashes) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


@lru_cache(1 << 16)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _mixed(values: Hashes) -> Hashes:
    """A finalizer of 64-bit hashes (splitmix64's; Steele, Lea and Flood 2014): each bit depends on all."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
