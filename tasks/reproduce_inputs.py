"""What a version was made from, had again by its digest: the record of its run, its text, and the model before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from tasks.adapters import document_digests
from tasks.adapters.lineage import read_scorecard
from tasks.adapters.lineage_books import Books, RunFacts, VersionFacts
from tasks.adapters.registry import EXPORTED
from tasks.adapters.store import Store
from tasks.adapters.tracking import STAGE
from tasks.contracts import ModelRef, Scorecard
from tasks.data_contracts import DataText, TextRef
from tasks.errors import RefusedData, RefusedModel
from tasks.lineage import books
from tasks.news import put_back
from tasks.provenance import (
    BASE,
    DOCUMENTS,
    HELD_OUT,
    HELD_OUT_DOCUMENTS,
    LABELS,
    NEW_DOCUMENTS,
    NEWS,
    PARAMETERS,
    PARENT,
    SURROUNDINGS,
)
from tasks.reader_contracts import ReaderScorecard
from tasks.recipes import DataChoice
from tasks.reproduction import Recorded, RecordedReader, TrainedFirst
from tasks.retraining import News
from tasks.retrying import network_task
from tasks.settings import settings
from tasks.text_sources import read_source, text_again, text_of_digest

_PARTS = ("model", "data", "recipe", "gate")
_SCORECARD: TypeAdapter[Scorecard | ReaderScorecard] = TypeAdapter(Scorecard | ReaderScorecard)


def recorded_of(ledger: Books, found: VersionFacts) -> Recorded | RecordedReader:
    """A version as its run left it.

    Raises:
        RefusedModel: the run did not record what it takes to make it again; with what is missing.
    """
    run = ledger.run(found.run_id)
    try:
        return _parsed(ledger, found, run)
    except (KeyError, ValueError) as error:
        missing = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise RefusedModel(
            f"{found.title} cannot be made again from its record", observed=f"run {run.id}: {missing}",
            limit="a version whose run recorded its parameters, and the digests of text and model that it began with",
            remedy="compress (train, distil) the model again: what is registered from now on has the whole record",
        ) from error  # fmt: skip


def _parsed(ledger: Books, found: VersionFacts, run: RunFacts) -> Recorded | RecordedReader:
    def file(name: str) -> str:
        told = ledger.file(run.id, name)
        if told is None:
            raise KeyError(name)
        return told

    given: dict[str, Any] = json.loads(file(PARAMETERS))
    scorecard = _SCORECARD.validate_json(file("scorecard.json"))
    common: dict[str, Any] = {part: given[part] for part in _PARTS} | {
        "name": found.name, "version": found.version, "run_id": run.id, "url": found.url, "scorecard": scorecard,
        "text_digest": run.tags["slimline.text_digest"], "surroundings": file(SURROUNDINGS),
        "exported_digest": _exported_digest(ledger, found, run, scorecard),
    }  # fmt: skip
    trained_first = "retraining" in given or bool(given["model"].get("train"))
    base = run.tags[BASE] if trained_first else scorecard.baseline_model.digest
    if isinstance(scorecard, ReaderScorecard):
        return RecordedReader(**common, base_digest=base)
    trained = None
    if trained_first:
        news = News.model_validate_json(file(NEWS))
        trained = TrainedFirst(
            retraining=given["retraining"], training=given["training"], base_name=run.tags["slimline.trained_from"],
            parent=run.tags[PARENT], news=put_back(news, file(NEW_DOCUMENTS)),
        )  # fmt: skip
    return Recorded(
        **common, base_digest=base, held_out_digest=run.tags.get(HELD_OUT, ""), trained=trained,
        labels_digest=run.tags.get(LABELS, ""),
        evaluation=given.get("evaluation", {}),  # an earlier run had none to choose
    )  # fmt: skip


def _exported_digest(
    ledger: Books, found: VersionFacts, run: RunFacts, scorecard: Scorecard | ReaderScorecard
) -> str | None:
    """Of the version's exported folder; empty where it has none, none where nobody wrote down whether it has one."""
    if isinstance(scorecard, ReaderScorecard):
        return ""
    if EXPORTED in found.tags:
        return found.tags[EXPORTED]
    if "exported_model" in scorecard.model_fields_set:
        return scorecard.exported_model.digest if scorecard.exported_model else ""
    exports = (stage for stage in ledger.stages(run.id) if stage.tags.get(STAGE) == "export")
    return next((stage.tags.get("slimline.digest", "") for stage in exports), None)


@network_task("recorded-text-{recorded.version}")
def recorded_text(recorded: Recorded) -> DataText:
    """The text that a version was made with: as it was kept when it was read, else its documents out of the source as
    it is now, by the digests that its run has listed, in that order. What has come to a source since is left out.

    Raises:
        RefusedData: documents of it are gone.
    """
    choice, apart = recorded.data.itself(), recorded.data.held_out()
    text = _same_text(recorded, choice, recorded.text_digest, _listed(recorded, DOCUMENTS))
    if apart is None:
        return DataText(text=text)
    if not recorded.held_out_digest:  # an earlier run did not record it: that the blocks differ is seen in the end
        return DataText(text=text, held_out=read_source(apart))
    listed = _listed(recorded, HELD_OUT_DOCUMENTS)
    return DataText(text=text, held_out=_same_text(recorded, apart, recorded.held_out_digest, listed))


def _listed(recorded: Recorded, name: str) -> tuple[str, ...]:
    return document_digests.in_order(books().file(recorded.run_id, name) or "")


def _same_text(recorded: Recorded, choice: DataChoice, digest: str, listed: Sequence[str]) -> TextRef:
    marks = recorded.labels_digest if choice.label else ""
    found = text_of_digest(choice, digest, marks, listed)
    if found.digest == digest:
        if found.labels == marks:
            return found
        raise RefusedData(
            f"{choice.source} labels the text of {recorded.title} otherwise than when it was made",
            observed=found.labels, limit=marks, remedy=f"bring the field {choice.label!r} back as it was",
        )  # fmt: skip
    now = map(document_digests.digest_of, text_again(choice, found).documents)
    there = f"; {len(set(listed) & set(now)):,} of its {len(listed):,} documents are there" if listed else ""
    raise RefusedData(
        f"{choice.source} no longer has the text that {recorded.title} was made with",
        observed=f"{found.digest}{there}", limit=digest,
        remedy="bring its documents back in their order (others may have come since), or compress with what is there "
        "as a new version",
    )  # fmt: skip


@network_task("recorded-base-{recorded.version}")
def recorded_base(recorded: Recorded) -> ModelRef:
    """The uncompressed model of the champion then, which the version's training has gone on from.

    Raises:
        RefusedModel: it is not in this store.
    """
    trained = recorded.trained
    assert trained is not None
    name, _, number = trained.parent.rpartition(" ")
    scorecard, _ = read_scorecard(settings().mlflow_url, name, number)
    model = scorecard.baseline_model
    if Store(settings().store).holds(model.uri, model.digest):
        return model
    raise RefusedModel(
        f"the model that {recorded.title} was trained from is not at hand",
        observed=f"{trained.base_name}, {recorded.base_digest}, which {trained.parent} was compressed from: not in "
        "this store",
        limit="a folder with that digest",
        remedy=f"make that version again first (slimline reproduce {name} {number}): what it trains stays in the "
        "store; or run where it was made",
    )  # fmt: skip


@network_task("same-inputs-{recorded.version}")
def require_same_inputs(recorded: Recorded | RecordedReader, original: ModelRef, text_digest: str) -> None:
    """Stop here when model or text are not what they were: nothing that follows could be compared.

    Raises:
        RefusedModel: the model's files are other ones.
        RefusedData: the text is another one.
    """
    if original.digest != recorded.base_digest:
        raise RefusedModel(
            f"{recorded.model.source} is not the model that {recorded.title} was made from", observed=original.digest,
            limit=recorded.base_digest,
            remedy="bring its files back, or make a new version of the model that is there",
        )  # fmt: skip
    if text_digest != recorded.text_digest:
        raise RefusedData(
            f"{recorded.data.source} is not the text that {recorded.title} was made with", observed=text_digest,
            limit=recorded.text_digest,
            remedy="bring the text back, or make a new version with the one that is there",
        )  # fmt: skip
