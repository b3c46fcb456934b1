"""What a run in MLflow says of where it comes from: code, environment, parameters, and each part of its data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prefect.runtime import flow_run
from pydantic_core import to_jsonable_python

from tasks.adapters import document_digests
from tasks.adapters.store import Store
from tasks.adapters.surroundings import Surroundings, look_around
from tasks.adapters.tokens import SPLITS, read_dataset
from tasks.adapters.tracking import Tracking
from tasks.contracts import DatasetRef
from tasks.data_contracts import DataText
from tasks.device_kind import device_class
from tasks.reader_contracts import QuestionsRef
from tasks.settings import settings

SURROUNDINGS, PARAMETERS, CARD = "surroundings.json", "parameters.json", "data/card.json"
DOCUMENTS = "data/documents.txt"  # the digest of each document of the text, in their order
HELD_OUT_DOCUMENTS = "data/held_out_documents.txt"  # the same of a held-out text of its own
NEWS, NEW_DOCUMENTS = "news.json", "data/new_documents.txt"
# Tags of a run: the digest of the model that was trained, and of a held-out text of its own. Of a version and of its
# run: the champion that it was to follow.
LABELS = "slimline.labels_digest"
BASE, HELD_OUT, PARENT = "slimline.trained_from_digest", "slimline.held_out_text_digest", "slimline.parent_version"


@dataclass(frozen=True)
class DataFacts:
    """``splits``: hex SHA-256 of each part's content, by what it is for. ``text``: of what all were cut from."""

    splits: dict[str, str]
    text: str
    card: str


def surroundings() -> Surroundings:
    """Of this process, now."""
    return look_around(device_class(), settings().threads)


def write_surroundings(books: Tracking, run_id: str) -> None:
    """Code version, environment and the flow's parameters: as tags, and as files of the run."""
    around = surroundings()
    books.tag(run_id, around.tags())
    parameters: dict[str, Any] = to_jsonable_python(flow_run.parameters)
    files = {SURROUNDINGS: around.json(), "requirements.txt": around.requirements}
    books.log_files(run_id, files | {PARAMETERS: json.dumps(parameters, indent=1)})


def write_data(books: Tracking, run_id: str, data: DatasetRef | QuestionsRef) -> None:
    """Each part of the data set as an input of the run with its own digest, and the data card as a file."""
    facts = data_facts(data)
    for context, digest in facts.splits.items():
        books.log_dataset(run_id, data, context, digest, facts.text)
    books.tag(
        run_id,
        {
            "slimline.dataset_digest": data.digest,
            "slimline.text_digest": facts.text,
            "slimline.split_digests": " ".join(facts.splits.values()),
        },
    )
    books.log_files(run_id, {CARD: facts.card})


def write_text_facts(
    books: Tracking, run_id: str, data: DataText, documents: Iterable[str], held_out: Iterable[str] = ()
) -> None:
    """Which documents the text has, in their order, for a later run to find what is new or to make the same version
    again; the same of a held-out text of its own, and which one it is; and how what is measured on is labelled.
    """
    files = {DOCUMENTS: document_digests.written(documents)}
    if listed := document_digests.written(held_out):
        files[HELD_OUT_DOCUMENTS] = listed
    books.log_files(run_id, files)
    told = {} if data.held_out is None else {HELD_OUT: data.held_out.digest}
    marks = (data.held_out or data.text).labels
    books.tag(run_id, told | ({LABELS: marks} if marks else {}))


def data_facts(data: DatasetRef | QuestionsRef) -> DataFacts:
    """Read from the stored folder, every byte checked."""
    store = Store(settings().store)
    folder = store.open(data.uri, data.digest)
    card = (folder / "card.json").read_text(encoding="utf-8")
    told = json.loads(card)
    if isinstance(data, QuestionsRef):
        files = store.manifest(data.uri)["files"]
        splits = {split: str(files[f"{split}.jsonl"]["sha256"]) for split in data.splits}
        return DataFacts(splits, str(told["digest"]), card)
    arrays = read_dataset(folder).splits
    splits = {split: hashlib.sha256(getattr(arrays, split).tobytes()).hexdigest() for split in SPLITS}
    return DataFacts(splits, str(told["text_digest"]), card)
