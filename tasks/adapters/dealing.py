"""Documents in the order of a seed, without duplicates, tokenized as they are asked for, → blocks of one split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tasks.adapters.duplicates import Duplicates
from tasks.errors import RefusedData, RefusedModel

Tokens = NDArray[np.int32]

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_BATCH = 64  # documents tokenized at a time: no more text is tokenized than the splits need
_PROMPT_WORDS, _PROMPTS = 12, 32


@dataclass(frozen=True)
class Dealing:
    """How documents become blocks.

    Attributes:
        whole: a block is the beginning of one document, and documents shorter than a block are left out; otherwise
            documents are joined by the end-of-text token and cut, so that none of a split's tokens is lost.
        near_duplicates: see ``Duplicates``; none looks for no duplicates.
        render: what turns a document into the text that is tokenized; a chat template, for one.
        words: what people wrote in a document; duplicates, leakage and prompts are about that.
        held_out: the evaluation split's own documents; none takes them from the same ones.
        to_learn: the training split's own documents; none takes them from the same ones.
        shuffle: documents are drawn in the order of the seed; otherwise in the order in which they are given.
        labels: of documents that have one.
    """

    whole: bool = False
    near_duplicates: float | None = None
    render: Callable[[str], str] = str
    words: Callable[[str], str] = str
    held_out: Sequence[str] | None = None
    to_learn: Sequence[str] | None = None
    shuffle: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)

    def ordered(self, documents: Sequence[str], seed: int) -> list[str]:
        """The documents in the order in which they are drawn."""
        return shuffled_by(documents, seed) if self.shuffle else list(documents)


class Drawn(NamedTuple):
    """One document: what people wrote, its tokens with the end of text, and its label, empty where it has none."""

    words: str
    ids: Tokens
    label: str


class Draw:
    """Draws documents and counts what it leaves out.

    Attributes:
        looked_at: documents drawn, left out or not.
        too_short: documents left out because they do not fill a block (``Dealing.whole``).
        left_over: tokens of the last, incomplete split.
    """

    def __init__(self, tokenizer: Tokenizer, end: int, vocabulary: int, how: Dealing) -> None:
        self._tokenizer, self._end, self._vocabulary, self._how = tokenizer, end, vocabulary, how
        self.duplicates = None if how.near_duplicates is None else Duplicates(how.near_duplicates)
        self.looked_at = self.too_short = self.left_over = 0

    def stream(self, documents: Sequence[str]) -> Iterator[Drawn]:
        """Each document that is no duplicate; several streams share what is one.

        Raises:
            RefusedData: a token is none of the model's.
        """
        for start in range(0, len(documents), _BATCH):
            batch = [(document, self._how.words(document)) for document in documents[start : start + _BATCH]]
            kept = [pair for pair in batch if self.duplicates is None or not self.duplicates.seen(pair[1])]
            self.looked_at += len(batch)
            texts = [self._how.render(document) for document, _ in kept]
            for (document, words), encoding in zip(
                kept, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True
            ):
                ids = self._checked(np.array([*encoding.ids, self._end], dtype=np.int32))
                yield Drawn(words, ids, self._how.labels.get(document, ""))

    def take(self, stream: Iterator[Drawn], blocks: int, block_tokens: int) -> tuple[Tokens, list[Drawn]]:
        """At most ``blocks`` blocks of ``stream``, (blocks, block_tokens), and what of the documents is in them."""
        used: list[Drawn] = []
        have, wanted = 0, blocks * block_tokens
        while have < wanted and (drawn := next(stream, None)) is not None:
            if self._how.whole:
                if len(drawn.ids) < block_tokens:
                    self.too_short += 1
                    continue
                drawn = drawn._replace(ids=drawn.ids[:block_tokens])
            used.append(drawn)
            have += len(drawn.ids)
        joined = np.concatenate([each.ids for each in used]) if used else np.zeros(0, dtype=np.int32)
        complete = min(blocks, have // block_tokens)
        self.left_over = have - complete * block_tokens
        return joined[: complete * block_tokens].reshape(complete, block_tokens), used

    def _checked(self, ids: Tokens) -> Tokens:
        if int(ids.max()) >= self._vocabulary:
            raise RefusedData(
                "the tokenizer does not belong to this model",
                observed=f"token id {int(ids.max())}",
                limit=f"ids below {self._vocabulary}, the rows of the embedding",
                remedy="put the tokenizer.json that the model was trained with into its folder",
            )
        return ids


def shuffled_by(documents: Sequence[str], seed: int) -> list[str]:
    """The documents in the order of the seed."""
    return [documents[index] for index in np.random.default_rng(seed).permutation(len(documents))]


def end_of_text(tokenizer: Tokenizer, tokenizer_json: Path) -> int:
    """The token between documents: the pretraining one where it has a usual name, else the declared ``eos_token``."""
    names = list(_END_OF_TEXT)
    config = tokenizer_json.with_name("tokenizer_config.json")
    if config.is_file():
        declared = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
        names.append(declared["content"] if isinstance(declared, dict) else str(declared))
    for name in names:
        if (index := tokenizer.token_to_id(name)) is not None:
            return int(index)
    raise RefusedModel(
        "the tokenizer has no end-of-text token",
        observed=names,
        limit="one of these in tokenizer.json",
        remedy="name eos_token in tokenizer_config.json",
    )


def prompts_of(documents: Sequence[str]) -> tuple[str, ...]:
    """Up to 32 prompts of about 12 words: each document's opening first, then later passages."""
    words = [document.split() for document in documents]
    longest = max((len(each) for each in words), default=0)
    passages = (
        " ".join(each[start : start + _PROMPT_WORDS])
        for start in range(0, max(longest, 1), _PROMPT_WORDS)
        for each in words
        if start == 0 or start + _PROMPT_WORDS <= len(each)
    )
    return tuple(islice(dict.fromkeys(passage for passage in passages if passage), _PROMPTS))


def too_short(have: int, block_tokens: int, blocks: int, split: str, documents: int, how: Dealing) -> RefusedData:
    """The refusal of a text that has too few tokens for the blocks that were asked for."""
    of = ", each the beginning of a document of its own" if how.whole else ""
    return RefusedData(
        "the text is too short",
        observed=f"{have} usable tokens in {documents} documents; they ran out in the {split} split",
        limit=f"{blocks * block_tokens} tokens ({blocks} blocks of {block_tokens}{of}), and no document in two splits",
        remedy="give more text, or ask for fewer or shorter blocks; long documents are better split into several",
    )
