"""Bring the model and the text into the artifact store."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

from tasks.adapters.chats import chat_renderer
from tasks.adapters.dealing import Dealing
from tasks.adapters.documents import words_of
from tasks.adapters.sources import import_model
from tasks.adapters.store import Store, Stored
from tasks.adapters.texts import Text
from tasks.adapters.tokens import Card, cut_blocks, read_account, write_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ImportedRef, ModelRef
from tasks.data_contracts import DataText
from tasks.errors import RefusedData
from tasks.recipes import DataChoice, ModelChoice
from tasks.retrying import compute_task, network_task
from tasks.settings import settings
from tasks.text_sources import read_source, text_again
from tasks.workbench import describe_model

_ADAPTERS = ("tokens", "dealing", "duplicates", "tokenizer_check", "chats", "documents", "texts", "labels")
DESCRIBED_BY = ("tasks.workbench", "tasks.compression.folder_facts")


def locate(choice: ModelChoice) -> ModelRef:
    """The chosen model as a verified folder in the store, described from its files."""
    return describe(import_source(choice))


# Not cached: the store remembers imports by the source's digest, which this task must look at each time
@network_task("import-{choice.short}")
def import_source(choice: ModelChoice) -> ImportedRef:
    """Make the chosen model a verified folder in the store; quick when it is there already."""
    found = import_model(choice.source, Store(settings().store), settings().downloads)
    return ImportedRef(uri=found.stored.uri, digest=found.stored.digest, name=found.name, licence=found.licence)


@compute_task("describe-{found.name}", cache_policy=StageKey(stage="describe", modules=DESCRIBED_BY))
def describe(found: ImportedRef) -> ModelRef:
    """Read from the folder's files what the model is: architecture, weights, zeros, bits."""
    return describe_model(found, name=found.name, licence=found.licence)


# Not cached: a file may have changed under the same name: its digest is what enters fetch's key
@network_task("read-{choice.short}")
def read_data(choice: DataChoice) -> DataText:
    """Read the chosen text as it is now, and refuse what cannot be read, with the line."""
    apart = choice.held_out()
    text, held_out = read_source(choice.itself()), None if apart is None else read_source(apart)
    if held_out is not None and held_out.digest == text.digest:
        raise RefusedData(
            "the held-out text is the text itself",
            observed=f"{held_out.name} and {text.name} have the same documents",
            limit="another text or another split",
            remedy="leave data.evaluation_source and data.evaluation_split empty: then documents are held out",
        )
    return DataText(text=text, held_out=held_out)


@network_task(
    "fetch-{choice.short}-{choice.calibration_blocks}x{choice.block_tokens}",
    cache_policy=StageKey(stage="fetch", modules=("tasks.fetch", *(f"tasks.adapters.{name}" for name in _ADAPTERS))),
)
def fetch(choice: DataChoice, data: DataText, tokenizer: ModelRef) -> DatasetRef:
    """Cut the text into calibration, training and held-out blocks for one tokenizer. The splits share no document."""
    store = Store(settings().store)
    text = text_again(choice, data.text)
    folder = store.open(tokenizer.uri, tokenizer.digest)
    splits = cut_blocks(
        text.documents,
        folder / "tokenizer.json",
        vocabulary=json.loads((folder / "config.json").read_text())["vocab_size"],
        block_tokens=choice.block_tokens,
        calibration=choice.calibration_blocks,
        training=choice.training_blocks,
        evaluation=choice.evaluation_blocks,
        seed=choice.seed,
        how=dealing_of(choice, data, tokenizer),
    )
    with store.draft("datasets") as draft:
        draft.made_from = {
            "text": data.model_dump(),
            "tokenizer": tokenizer.digest,
            "choice": choice.model_dump(),
        }
        card = write_dataset(draft.path, splits, text, seed=choice.seed)
    return ref_of(draft.stored, text, card)


def ref_of(stored: Stored, text: Text, card: Card) -> DatasetRef:
    """The handle of blocks that were cut from ``text``."""
    return DatasetRef(
        uri=stored.uri,
        digest=stored.digest,
        name=text.name,
        licence=text.licence,
        block_tokens=card.block_tokens,
        calibration_blocks=card.calibration_blocks,
        training_blocks=card.training_blocks,
        evaluation_blocks=card.evaluation_blocks,
    )


# Not cached: the limit is no part of what the blocks are, and a stricter one holds for the same blocks too
@network_task("leakage-{data.name}")
def require_apart(choice: DataChoice, data: DatasetRef) -> None:
    """Stop where too much of the held-out text was learnt from.

    Raises:
        RefusedData: with the share of sequences that both sides have.
    """
    account = read_account(Store(settings().store).open(data.uri, data.digest))
    if account is not None and account.leaked > choice.max_leakage:
        raise RefusedData(
            "the held-out text stands in the calibration or training text too: what it measures is memory",
            observed=f"{account.leaked:.1%} of its 13-word sequences, in {account.leaked_documents} of "
            f"{account.evaluation_documents} documents",
            limit=f"{choice.max_leakage:.1%} (data.max_leakage)",
            remedy="give another held-out text (data.evaluation_source), drop what all documents share, such as "
            "headers, or raise data.max_leakage if that is how your texts are",
        )


def dealing_of(choice: DataChoice, data: DataText, tokenizer: ModelRef) -> Dealing:
    """How the documents of these texts become blocks."""
    held_out = choice.held_out()
    apart = None if held_out is None or data.held_out is None else text_again(held_out, data.held_out)
    measured = apart or (text_again(choice, data.text) if data.text.labels else None)
    dealing = Dealing(
        whole=choice.packing == "whole",
        near_duplicates=choice.near_duplicates,
        held_out=None if apart is None else apart.documents,
        labels=dict(zip(measured.documents, measured.labels, strict=True)) if measured and measured.labels else {},
    )
    chat = data.text.chat
    if apart is not None and apart.chat != chat:
        raise RefusedData(
            "one of the texts is chats and the other is not",
            observed=f"{data.text.name}: {data.text.unit}; {apart.name}: {apart.unit}",
            limit="the same kind of documents on both sides",
            remedy="choose data.document and data.fields so that both are read alike",
        )
    if not chat:
        return dealing
    folder = Store(settings().store).open(tokenizer.uri, tokenizer.digest)
    return replace(dealing, render=chat_renderer(folder / "tokenizer.json"), words=partial(words_of, chat=True))
