"""Write down what happened, for people: artifacts on the Prefect run's page, and the same in MLflow.

Never cached, so a stage that was answered from the cache is on its run's page too. Repeated after a lost
connection, each task writes the same again.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from tasks import reporting
from tasks.adapters import labels
from tasks.adapters.champion import EVIDENCE
from tasks.adapters.lineage_books import VERSION
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_account
from tasks.adapters.tracking import Status, Tracking
from tasks.bench import new_pairs
from tasks.cloud import sagemaker
from tasks.contracts import (
    Compressed,
    DatasetRef,
    Exported,
    ModelPackage,
    RegisteredModel,
    Rollout,
    Scorecard,
    Settled,
    Shift,
    Tracked,
)
from tasks.data_card import data_card
from tasks.data_contracts import DataText
from tasks.findings import Tally, report_pairs
from tasks.outcome import tell_release, tell_verdict, tell_version
from tasks.provenance import write_data, write_surroundings, write_text_facts
from tasks.reader_contracts import QuestionsRef, ReaderScorecard
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import DataChoice, Recipe
from tasks.retrying import network_task
from tasks.runpages import tag_run
from tasks.settings import settings
from tasks.text_sources import text_again
from tasks.timeline import draw_timeline

_log = logging.getLogger(__name__)


def tracking() -> Tracking:
    return _tracking(settings().mlflow_url, settings().experiment)


@functools.cache
def _tracking(url: str, experiment: str) -> Tracking:
    """One for all tasks of a process: each would ask for the experiment's id again."""
    return Tracking(url, experiment)


@contextmanager
def recorded_run(name: str, recipe: Recipe | ReaderRecipe, part: str = "") -> Iterator[Tracked]:
    """An MLflow run that ends as the block does: FINISHED, FAILED, or KILLED where a person ended it. ``part`` tells
    several of one flow run apart.
    """
    tracked = open_record(name, recipe, part)
    try:
        yield tracked
    except BaseException as cause:
        # Prefect cancels a run by one that is no Exception, and Ctrl-C is one: the MLflow run must not stay open.
        try:
            close_record(tracked, "FAILED" if isinstance(cause, Exception) else "KILLED")
        except Exception as error:  # noqa: BLE001 - the cause of the failure is what a person must see
            _log.warning("the MLflow run %s could not be closed: %s", tracked.run_id, error)
        raise
    close_record(tracked, "FINISHED")


@network_task("open-record-{name}")
def open_record(name: str, recipe: Recipe | ReaderRecipe, part: str = "") -> Tracked:
    """Open the MLflow run of this Prefect run, or find it again after a restart."""
    books = tracking()
    run_id = books.open_run(
        f"{flow_run.id}{part}",
        name,
        params={f"recipe.{key}": str(value) for key, value in recipe.model_dump(mode="json").items()},
        tags={"slimline.prefect_run_url": flow_run.ui_url or "", "slimline.recipe": recipe.model_dump_json()},
    )
    write_surroundings(books, run_id)
    return Tracked(run_id=run_id, url=books.run_url(run_id))


@network_task("record-{data.name}")
def record_data(tracked: Tracked, data: DatasetRef | QuestionsRef) -> None:
    """Log each part of the data set (calibration, training, evaluation) with its digest as an input of the run."""
    write_data(tracking(), tracked.run_id, data)


@network_task("record-card-{blocks.name}")
def record_card(tracked: Tracked, choice: DataChoice, data: DataText, blocks: DatasetRef) -> None:
    """The data card: on the run page, and ``data_card.md`` in MLflow; there also which documents the text has, for a
    later run to find what is new.
    """
    folder = Store(settings().store).open(blocks.uri, blocks.digest)
    card = data_card(choice, data, blocks, read_account(folder), labels.read(folder))
    reporting.report_data(card)
    books, documents, apart = tracking(), text_again(choice, data.text).documents, choice.held_out()
    held_out = () if apart is None or data.held_out is None else text_again(apart, data.held_out).documents
    books.log_card(tracked.run_id, card)
    write_text_facts(books, tracked.run_id, data, documents, held_out)


@network_task("record-{step.stage}")
def record_stage(tracked: Tracked, step: Compressed, cached: bool) -> None:
    """One stage: a table a layer on the run page, and a child run in MLflow with sizes, time, memory and every
    layer.
    """
    reporting.report_stage(step)
    tracking().log_stage(
        tracked.run_id,
        step.stage,
        params={
            "model": step.model.name,
            "digest": step.model.digest,
            "dtype": step.model.dtype,
            "engine": step.engine,
            **{f"engine.{name}": version for name, version in step.versions.items()},
        },
        metrics={
            "bytes": step.model.bytes,
            "sparsity": step.model.sparsity,
            "bits": step.model.bits,
            "seconds": step.seconds,
            "tokens": step.tokens,
            "peak_bytes": step.peak_bytes,
            "fallbacks": len(step.fallbacks),
        },
        layers=step.layers,
        losses=step.losses,
        tags={
            "slimline.cached": str(cached).lower(),
            "slimline.digest": step.model.digest,
            "slimline.prefect_run_url": flow_run.ui_url or "",
        },
    )


@network_task("record-export")
def record_export(tracked: Tracked, step: Exported, cached: bool) -> None:
    """What was exported, or why nothing was: on the run page, and a child run in MLflow."""
    reporting.report_export(step)
    model = step.model
    tracking().log_stage(
        tracked.run_id,
        "export",
        params=step.choices
        | ({"model": model.name, "digest": model.digest} if model else {"not_exported": step.reason}),
        metrics={"seconds": step.seconds, "peak_bytes": step.peak_bytes}
        | ({"bytes": model.bytes, "sparsity": model.sparsity, "bits": model.bits} if model else {}),
        tags={
            "slimline.cached": str(cached).lower(),
            "slimline.digest": model.digest if model else "",
            "slimline.made_from": step.source,
            "slimline.prefect_run_url": flow_run.ui_url or "",
        },
    )


@network_task("record-verdict")
def record_verdict(tracked: Tracked, scorecard: Scorecard | ReaderScorecard) -> None:
    """The scorecard, passed or not."""
    tell_verdict(scorecard, tracked)
    books, original = tracking(), scorecard.baseline_model
    books.tag(tracked.run_id, {"slimline.original": original.name, "slimline.original_digest": original.digest})
    if isinstance(scorecard, ReaderScorecard):
        reporting.report_reader(scorecard, tracked)
        books.log_reader(tracked.run_id, scorecard)
        return
    reporting.report_verdict(scorecard, tracked)
    books.log_scorecard(tracked.run_id, scorecard)
    evidence = scorecard.evidence
    if evidence is not None:
        store = Store(settings().store)
        start = None if scorecard.training is None else scorecard.training.items
        for where, items in ((EVIDENCE, evidence.items), ("tasks", evidence.documents), ("before-training", start)):
            if items is not None:
                books.log_items(tracked.run_id, store.open(items.uri, items.digest), where)


@network_task("record-version-{registered.version}")
def record_version(tracked: Tracked, registered: RegisteredModel) -> None:
    """Link this run, in Prefect and in MLflow, with the version that it made or found already registered."""
    reporting.report_registered(registered)
    tell_version(registered)
    name = f"{registered.name}/{registered.version}"
    tracking().tag(tracked.run_id, {VERSION: name})
    tag_run(f"version:{name}")


@network_task("record-{rollout.phase}")
def record_release(rollout: Rollout, endpoint_page: str | None) -> None:
    """Every step of the rollout, and how it ended: on the run page, and with the version's run in MLflow."""
    timeline = draw_timeline(rollout) if rollout.observations else None
    reporting.report_release(rollout, endpoint_page, timeline)
    tell_release(rollout, endpoint_page)
    if rollout.registered.run_id:
        reporting.report_registered(rollout.registered)
        tag_run(f"version:{rollout.registered.name}/{rollout.registered.version}", f"endpoint:{rollout.endpoint}")
        if timeline is not None:
            tracking().log_release(rollout, str(flow_run.id), timeline)


@network_task("record-{settled.action}")
def record_restore(settled: Settled, endpoint_page: str | None) -> None:
    """What an endpoint serves after a restore, and why."""
    reporting.report_restore(settled, endpoint_page)


@network_task("record-pairs-{new.registered.version}")
def record_pairs(asked: Shift, new: ModelPackage) -> None:
    """Both versions' answers to each request of a shadow release: a data set of the version's MLflow run."""
    seen, books, run = Tally(), tracking(), new.registered.run_id
    books.log_pairs(run, str(flow_run.id), seen.seeing(new_pairs(sagemaker().evidence.captures(asked))))
    if seen.count:
        books.log_shadow(run, seen.means())
    report_pairs(seen)


@network_task("close-record-{status}")
def close_record(tracked: Tracked, status: Status) -> None:
    tracking().close_run(tracked.run_id, status)
