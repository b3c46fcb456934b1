"""Near duplicates by MinHash are those that an exact comparison finds, and leakage is counted as it is."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters.duplicates import NGRAM, SHINGLE, Duplicates, leakage, words_in

WORDS = [f"word{index}" for index in range(4000)]


def sets(text: str, length: int) -> set[tuple[str, ...]]:
    words = words_in(text)
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def similarity(one: str, other: str) -> float:
    a, b = sets(one, SHINGLE), sets(other, SHINGLE)
    return len(a & b) / len(a | b)


def text_of(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def changed(text: str, count: int, seed: int) -> str:
    words, chance = text.split(), random.Random(seed)
    for place in chance.sample(range(len(words)), count):
        words[place] = "changed"
    return " ".join(words)


def test_near_duplicates_are_those_of_an_exact_comparison() -> None:
    texts = [changed(text_of(seed), count, seed) for seed in range(60) for count in (0, 2, 6, 30)]
    random.Random(1).shuffle(texts)
    duplicates, kept = Duplicates(0.8), list[str]()
    for text in texts:
        expected = any(similarity(text, other) >= 0.8 for other in kept)
        assert duplicates.seen(text) == expected
        if not expected:
            kept.append(text)
    assert duplicates.near > 50


@given(st.lists(st.text(max_size=30), max_size=20))
@settings(max_examples=50, deadline=None)
def test_nothing_is_dropped_that_differs_in_its_words(texts: list[str]) -> None:
    duplicates, kept = Duplicates(0.0), set[str]()
    for text in texts:
        same = " ".join(words_in(text)) or text
        assert duplicates.seen(text) == (same in kept)
        kept.add(same)


def test_the_same_words_in_other_letters_are_duplicates() -> None:
    duplicates = Duplicates(0.0)
    assert not duplicates.seen("The café, at NIGHT.")
    assert duplicates.seen("the cafe\u0301 at night")
    assert duplicates.exact == 1


def test_text_without_spaces_is_compared_by_characters() -> None:
    duplicates, text = Duplicates(0.8), "".join(chr(0x4E00 + index) for index in range(200))
    assert not duplicates.seen(text)
    assert duplicates.seen(text + "又")


def test_leakage_is_the_share_of_sequences_that_the_others_have_too() -> None:
    held, other = [text_of(1), text_of(2)], [text_of(3), f"{text_of(4, 30)} {' '.join(text_of(1).split()[40:80])}"]
    known = set(itertools.chain.from_iterable(sets(text, NGRAM) for text in other))
    found = leakage(held, other)
    assert found.sequences == sum(len(sets(text, NGRAM)) for text in held)
    assert found.shared == sum(len(sets(text, NGRAM) & known) for text in held) == 40 - NGRAM + 1
    assert (found.documents, found.touched) == (2, 1)
    assert leakage(held, []).share == leakage([], other).share == 0.0
