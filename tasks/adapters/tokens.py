"""Documents → token blocks for calibration, training and evaluation, which never share a document.

The artifact is a folder: ``tokens.safetensors`` (int32, one array a split), ``card.json`` (what it was made from),
``account.json`` (what became of the documents), ``prompts.jsonl`` (short real prompts from held-out documents, for
measuring latency and for rehearsal traffic) and, where they were asked for, ``labels.json`` (label and tokens of each
held-out document, in their order). None of them says where the text lay: the same text elsewhere is the same
artifact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tasks.adapters import labels
from tasks.adapters.dealing import Dealing, Draw, Tokens, end_of_text, prompts_of, too_short
from tasks.adapters.duplicates import leakage
from tasks.adapters.texts import Text
from tasks.adapters.tokenizer_check import SAMPLE, check_tokenizer
from tasks.errors import ArtifactDamaged

SPLITS = ("calibration", "training", "evaluation")
_SAMPLES, _SAMPLE_CHARACTERS = 3, 400


@dataclass(frozen=True)
class Account:
    """What became of the documents: counts of documents and sequences of words; shares 0–1."""

    looked_at: int
    same: int
    near: int
    too_short: int
    calibration_documents: int
    training_documents: int
    evaluation_documents: int
    evaluation_sequences: int
    leaked_sequences: int
    leaked_documents: int
    unknown: float
    words_back: float
    bytes_a_token: float
    samples: tuple[str, ...]

    @property
    def leaked(self) -> float:
        """Share of the evaluation documents' 13-word sequences that stand in the other splits' documents too."""
        return self.leaked_sequences / self.evaluation_sequences if self.evaluation_sequences else 0.0


@dataclass(frozen=True)
class TokenSplits:
    """Token blocks, each (blocks, block_tokens) int32, and prompts from the evaluation documents. ``labels``: (label,
    tokens) of the evaluation documents in their order; none where they have none.
    """

    calibration: Tokens
    training: Tokens
    evaluation: Tokens
    prompts: tuple[str, ...]
    account: Account | None = None
    labels: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Card:
    """What a data set was made from."""

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
    how: Dealing = Dealing(),  # noqa: B008
) -> TokenSplits:
    """Shuffle documents by ``seed``, deal them out whole, and make each split's blocks of them.

    Evaluation is dealt first, then calibration, then training, so that asking for more training does not change what
    is measured on. Duplicates are looked for among the documents that are dealt, so a document that comes twice is in
    one split only. What a split's last document has left over is dropped.

    Args:
        documents: texts without duplicates.
        tokenizer_json: the model's ``tokenizer.json``; ``tokenizer_config.json`` beside it may name the end-of-text
        token. vocabulary: rows of the model's embedding. block_tokens: tokens a block. calibration, training,
        evaluation: blocks of each split. how: see ``Dealing``.

    Raises:
        RefusedData: the documents have too few tokens, the tokenizer gives ids that the model does not have, or it does
            not fit the text.
        RefusedModel: the tokenizer has no end-of-text token.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    shuffled = how.ordered(documents, seed)
    fit = check_tokenizer(tokenizer, [how.render(document) for document in shuffled[:SAMPLE]])
    draw = Draw(tokenizer, end_of_text(tokenizer, tokenizer_json), vocabulary, how)
    rest = draw.stream(shuffled)
    apart = {"evaluation": how.held_out, "calibration": None, "training": how.to_learn}
    streams = {split: rest if own is None else draw.stream(how.ordered(own, seed)) for split, own in apart.items()}
    given = len(documents) + len(how.to_learn or ())
    taken: dict[str, Tokens] = {}
    used: dict[str, list[str]] = {}
    marked: tuple[tuple[str, int], ...] = ()
    for split, blocks in (("evaluation", evaluation), ("calibration", calibration), ("training", training)):
        taken[split], drawn = draw.take(streams[split], blocks, block_tokens)
        used[split] = [each.words for each in drawn]
        if split == "evaluation" and how.labels:
            marked = labels.cut([(each.label or labels.NONE, len(each.ids)) for each in drawn], taken[split].size)
        if len(taken[split]) < blocks:
            have = sum(array.size for array in taken.values()) + draw.left_over
            raise too_short(have, block_tokens, evaluation + calibration + training, split, given, how)
    shared = leakage(used["evaluation"], used["calibration"] + used["training"])
    account = Account(
        looked_at=draw.looked_at,
        same=draw.duplicates.exact if draw.duplicates else 0,
        near=draw.duplicates.near if draw.duplicates else 0,
        too_short=draw.too_short,
        **{f"{split}_documents": len(used[split]) for split in SPLITS},
        evaluation_sequences=shared.sequences,
        leaked_sequences=shared.shared,
        leaked_documents=shared.touched,
        unknown=fit.unknown,
        words_back=fit.back,
        bytes_a_token=fit.bytes_a_token,
        samples=tuple(how.render(document)[:_SAMPLE_CHARACTERS] for document in shuffled[:_SAMPLES]),
    )
    return TokenSplits(**taken, prompts=prompts_of(used["evaluation"]), account=account, labels=marked)


def write_dataset(folder: Path, splits: TokenSplits, text: Text, *, seed: int) -> Card:
    """Write the data set into the existing ``folder`` (an artifact store's draft)."""
    card = Card(
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
    labels.write(folder, splits.labels)
    if splits.account is not None:
        said = json.dumps(asdict(splits.account), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / "account.json").write_text(said + "\n", encoding="utf-8")
    return card


def read_account(folder: Path) -> Account | None:
    """What became of the documents; none in a folder that an older version wrote."""
    file = folder / "account.json"
    if not file.is_file():
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    return Account(**(said | {"samples": tuple(said["samples"])}))


def read_dataset(folder: Path) -> Dataset:
    """Read a data set back from its folder.

    Raises:
        ArtifactDamaged: the arrays are not what the card says.
    """
    said = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    # Older versions wrote the source's name too.
    card = Card(**{field.name: said[field.name] for field in fields(Card)})
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
    prompts = tuple(json.loads(line)["prompt"] for line in lines)
    account, marked = read_account(folder), labels.read(folder)
    if marked and sum(count for _, count in marked) != arrays["evaluation"].size:
        raise ArtifactDamaged(
            f"data set {folder} has labels of other blocks", observed=sum(count for _, count in marked),
            limit=f"{arrays['evaluation'].size} tokens", remedy="remove it and run again",
        )  # fmt: skip
    return Dataset(TokenSplits(**arrays, prompts=prompts, account=account, labels=marked), card)
