"""Documents → token blocks for calibration, training and evaluation, which never share a document.

The artifact is a folder: ``tokens.safetensors`` (int32, one array a split), ``card.json`` (what it was made from) and
``prompts.jsonl`` (short real prompts from held-out documents, for measuring latency and for rehearsal traffic).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tasks.adapters.texts import Text
from tasks.errors import ArtifactDamaged, RefusedData, RefusedModel

Tokens = NDArray[np.int32]

SPLITS = ("calibration", "training", "evaluation")
_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_BATCH = 64  # documents tokenized at a time: no more text is tokenized than the splits need
_PROMPT_WORDS, _PROMPTS = 12, 32


@dataclass(frozen=True)
class TokenSplits:
    """Token blocks, each (blocks, block_tokens) int32, and prompts from the evaluation documents."""

    calibration: Tokens
    training: Tokens
    evaluation: Tokens
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """What a data set was made from."""

    source: str
    licence: str
    text_digest: str
    block_tokens: int
    calibration_blocks: int
    training_blocks: int
    evaluation_blocks: int
    seed: int


@dataclass(frozen=True)
class Dataset:
    """A data set read back."""

    splits: TokenSplits
    card: Card


def cut_blocks(
    documents: Sequence[str],
    tokenizer_json: Path,
    *,
    vocabulary: int,
    block_tokens: int,
    calibration: int,
    training: int,
    evaluation: int,
    seed: int,
) -> TokenSplits:
    """Shuffle documents by ``seed``, deal them out whole, and pack each split into blocks.

    Evaluation is dealt first, then calibration, then training, so that asking for more training does not change what
    is measured on. Documents are joined by the end-of-text token, and what a split's last document has left over is
    dropped.

    Args:
        documents: texts without duplicates.
        tokenizer_json: the model's ``tokenizer.json``; ``tokenizer_config.json`` beside it may name the end-of-text
        token. vocabulary: rows of the model's embedding. block_tokens: tokens a block. calibration, training,
        evaluation: blocks of each split.

    Raises:
        RefusedData: the documents have too few tokens, or the tokenizer gives ids that the model does not have.
        RefusedModel: the tokenizer has no end-of-text token.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    end = _end_of_text(tokenizer, tokenizer_json)
    order = np.random.default_rng(seed).permutation(len(documents))
    shuffled = [documents[index] for index in order]
    stream = _tokenized(shuffled, tokenizer, end, vocabulary)
    taken: dict[str, Tokens] = {}
    used: dict[str, int] = {}
    for split, blocks in (("evaluation", evaluation), ("calibration", calibration), ("training", training)):
        tokens, used[split] = _take(stream, blocks * block_tokens)
        if len(tokens) < blocks * block_tokens:
            have = len(tokens) + sum(array.size for array in taken.values())
            raise _too_short(have, block_tokens, evaluation + calibration + training, split, len(documents))
        taken[split] = tokens.reshape(blocks, block_tokens)
    return TokenSplits(**taken, prompts=_prompts(shuffled[: used["evaluation"]]))


def write_dataset(folder: Path, splits: TokenSplits, text: Text, *, seed: int) -> Card:
    """Write the data set into the existing ``folder`` (an artifact store's draft)."""
    card = Card(
        source=text.name,
        licence=text.licence,
        text_digest=text.digest,
        block_tokens=int(splits.evaluation.shape[1]),
        calibration_blocks=len(splits.calibration),
        training_blocks=len(splits.training),
        evaluation_blocks=len(splits.evaluation),
        seed=seed,
    )
    save_file({name: getattr(splits, name) for name in SPLITS}, folder / "tokens.safetensors")
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    lines = (json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in splits.prompts)
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    return card


def read_dataset(folder: Path) -> Dataset:
    """Read a data set back from its folder.

    Raises:
        ArtifactDamaged: the arrays are not what the card says.
    """
    card = Card(**json.loads((folder / "card.json").read_text(encoding="utf-8")))
    arrays = load_file(folder / "tokens.safetensors")
    expected = {name: (getattr(card, f"{name}_blocks"), card.block_tokens) for name in SPLITS}
    observed = {name: array.shape for name, array in arrays.items()}
    if observed != expected or any(array.dtype != np.int32 for array in arrays.values()):
        raise ArtifactDamaged(
            f"data set {folder} does not match its card",
            observed=observed,
            limit=expected,
            remedy="remove it and run again",
        )
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset(TokenSplits(**arrays, prompts=tuple(json.loads(line)["prompt"] for line in lines)), card)


def end_token(tokenizer_json: Path) -> int:
    """The token that stands between documents.

    Raises:
        RefusedModel: the tokenizer has none.
    """
    return _end_of_text(Tokenizer.from_file(str(tokenizer_json)), tokenizer_json)


def _tokenized(documents: Sequence[str], tokenizer: Tokenizer, end: int, vocabulary: int) -> Iterator[Tokens]:
    for start in range(0, len(documents), _BATCH):
        for encoding in tokenizer.encode_batch(list(documents[start : start + _BATCH]), add_special_tokens=False):
            ids = np.array([*encoding.ids, end], dtype=np.int32)
            if int(ids.max()) >= vocabulary:
                raise RefusedData(
                    "the tokenizer does not belong to this model",
                    observed=f"token id {int(ids.max())}",
                    limit=f"ids below {vocabulary}, the rows of the embedding",
                    remedy="put the tokenizer.json that the model was trained with into its folder",
                )
            yield ids


def _take(stream: Iterator[Tokens], wanted: int) -> tuple[Tokens, int]:
    """Whole documents from ``stream`` until ``wanted`` tokens are there: (those tokens, documents taken)."""
    parts: list[Tokens] = []
    have = 0
    while have < wanted and (part := next(stream, None)) is not None:
        parts.append(part)
        have += len(part)
    joined = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return joined[:wanted], len(parts)


def _end_of_text(tokenizer: Tokenizer, tokenizer_json: Path) -> int:
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


def _prompts(documents: Sequence[str]) -> tuple[str, ...]:
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


def _too_short(have: int, block_tokens: int, blocks: int, split: str, documents: int) -> RefusedData:
    return RefusedData(
        "the text is too short",
        observed=f"{have} usable tokens in {documents} documents; they ran out in the {split} split",
        limit=f"{blocks * block_tokens} tokens ({blocks} blocks of {block_tokens}), and no document in two splits",
        remedy="give more text, or ask for fewer or shorter blocks; long documents are better split into several",
    )
