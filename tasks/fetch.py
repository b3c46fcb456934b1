"""Bring the model and the text into the artifact store."""

from __future__ import annotations

import json

from tasks.adapters.sources import import_model
from tasks.adapters.store import Store
from tasks.adapters.texts import read_text
from tasks.adapters.tokens import cut_blocks, write_dataset
from tasks.caching import StageKey
from tasks.captured import captured_again, is_captured, read_captured
from tasks.contracts import DatasetRef, ModelRef
from tasks.recipes import DataChoice, ModelChoice
from tasks.retrying import network_task
from tasks.settings import settings
from tasks.workbench import describe_model


# Not cached: the store remembers imports by the source's digest, which this task must look at each time
@network_task("import-{choice.source}")
def locate(choice: ModelChoice) -> ModelRef:
    """Make the chosen model a verified folder in the store; quick when it is there already."""
    imported = import_model(choice.source, Store(settings().store), settings().downloads)
    return describe_model(imported.stored, name=imported.name, licence=imported.licence)


# Not cached: a file may have changed under the same name: its digest is what enters fetch's key
@network_task("read-{choice.source}")
def digest_text(choice: DataChoice) -> str:
    """SHA-256 of the chosen text as it is now."""
    if is_captured(choice.source):
        return read_captured(choice.source).digest
    return read_text(choice.source, settings().downloads).digest


@network_task(
    "fetch-{choice.source}-{choice.calibration_blocks}x{choice.block_tokens}",
    cache_policy=StageKey(stage="fetch", modules=("tasks.fetch", "tasks.adapters.tokens", "tasks.adapters.texts")),
)
def fetch(choice: DataChoice, text_digest: str, tokenizer: ModelRef) -> DatasetRef:
    """Cut the text into calibration, training and held-out blocks for one tokenizer. The splits share no document."""
    store = Store(settings().store)
    if is_captured(choice.source):
        text = captured_again(choice.source, text_digest)
    else:
        text = read_text(choice.source, settings().downloads)
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
    )
    with store.draft("datasets") as draft:
        draft.made_from = {"text": text_digest, "tokenizer": tokenizer.digest, "choice": choice.model_dump()}
        card = write_dataset(draft.path, splits, text, seed=choice.seed)
    return DatasetRef(
        uri=draft.stored.uri,
        digest=draft.stored.digest,
        name=text.name,
        licence=text.licence,
        block_tokens=card.block_tokens,
        calibration_blocks=card.calibration_blocks,
        training_blocks=card.training_blocks,
        evaluation_blocks=card.evaluation_blocks,
    )
