"""Read what a version's run recorded, compare re-runs with it, and write the verdict down."""

from __future__ import annotations

from prefect.artifacts import create_link_artifact
from prefect.runtime import flow_run

from tasks.adapters.lineage_books import REPRODUCES, Books
from tasks.adapters.surroundings import Surroundings, difference
from tasks.contracts import Made, Tracked
from tasks.errors import NotReproduced
from tasks.lineage import books
from tasks.preflight import require_mlflow
from tasks.provenance import SURROUNDINGS, surroundings
from tasks.reader_contracts import MadeReader
from tasks.record import tracking
from tasks.register import registry
from tasks.reproduce_inputs import recorded_of
from tasks.reproduction import (
    Recorded,
    RecordedReader,
    RecordedRun,
    Repeat,
    Reproduction,
    Sameness,
    bands,
    figures_of,
    repeat_of,
    sameness,
)
from tasks.reproduction_text import markdown
from tasks.retrying import network_task
from tasks.runpages import on_top, tag_run

_REPEAT = "reproduction.json"
_VERDICTS: dict[Sameness, str] = {
    "same": "bit for bit",
    "other": "other bytes",
    "packed": "compressed folder bit for bit, exported one not recorded",
}


@network_task("recorded-{model}-{version}")
def read_recorded(model: str, version: str) -> Recorded | RecordedReader:
    """The parameters, figures and surroundings of the run that made a version.

    Raises:
        RefusedModel: there is no such version, or its run did not record them.
    """
    require_mlflow()
    ledger = books()
    found = ledger.version(model, version)
    return recorded_of(ledger, found)


@network_task("record-repeat")
def record_repeat(tracked: Tracked, recorded: Recorded | RecordedReader, made: Made | MadeReader) -> Repeat:
    """Keep a re-run's figures with its MLflow run, for the bands of later ones."""
    repeat = repeat_of(made, tracked.run_id, tracked.url)
    same = sameness(repeat, recorded.scorecard.candidate_model.digest, recorded.exported_digest)
    tracking().tag(tracked.run_id, {REPRODUCES: recorded.title, "slimline.verdict": _VERDICTS[same]})
    tracking().log_files(tracked.run_id, {_REPEAT: repeat.model_dump_json(indent=1)})
    return repeat


@network_task("compare-{recorded.version}")
def compare(recorded: Recorded | RecordedReader, repeats: tuple[Repeat, ...]) -> Reproduction:
    """Recorded figures beside the bands of these re-runs and of all earlier ones in the same surroundings."""
    now, data = surroundings(), recorded.scorecard.dataset_digest
    trained = recorded.scorecard.baseline_model.digest
    other = sorted({repeat.dataset_digest for repeat in repeats} - {data})
    every = (*_earlier(books(), recorded, now, repeats), *repeats)
    return Reproduction(
        name=recorded.name,
        version=recorded.version,
        url=recorded.url,
        digest=recorded.scorecard.candidate_model.digest,
        exported_digest=recorded.exported_digest,
        trained_digest="" if trained == recorded.base_digest else trained,
        repeats=every,
        bands=bands(figures_of(recorded.scorecard), every),
        changed=(
            *(f"data set: {data} → {digest}" for digest in other),
            *difference(Surroundings.parse(recorded.surroundings), now),
        ),
    )


def _earlier(ledger: Books, recorded: RecordedRun, now: Surroundings, repeats: tuple[Repeat, ...]) -> list[Repeat]:
    """Of the same data as ``repeats``: a held-out text that was read as it then was gives figures of something else."""
    found, known = [], {repeat.run_id for repeat in repeats}
    datasets = {repeat.dataset_digest for repeat in repeats}
    for run in ledger.reproductions(ledger.version(recorded.name, recorded.version)):
        told, around = ledger.file(run.id, _REPEAT), ledger.file(run.id, SURROUNDINGS)
        if run.id in known or not told or not around or difference(Surroundings.parse(around), now):
            continue
        repeat = Repeat.model_validate_json(told)
        if repeat.dataset_digest in datasets:
            found.append(repeat.model_copy(update={"earlier": True}))
    return found


@network_task("record-reproduction")
def record_reproduction(found: Reproduction) -> None:
    """The verdict on the run page, and as tags of the version."""
    on_top("reproduction", markdown(found), "Can this version be made again?")
    create_link_artifact(found.url, f"{found.name} version {found.version}", key="registered-version")
    tags = {"slimline.reproduced": found.verdict, "slimline.reproduced_run_url": flow_run.ui_url or ""}
    registry().tag(found.name, found.version, tags)
    tag_run(f"version:{found.name}/{found.version}")


def require_reproduced(found: Reproduction) -> None:
    """Stop here when a recorded figure is outside its band.

    Raises:
        NotReproduced: with the figures, their bands, and what is not as it was.
    """
    outside = [band for band in found.bands if not band.inside]
    if outside or not found.bands:
        changed = "; ".join(found.changed) or "nothing that is known of"
        raise NotReproduced(
            f"{found.name} {found.version} could not be made again; changed since: {changed}",
            observed="; ".join(f"{band.figure} was recorded as {band.recorded:.6g}" for band in outside) or "no figure",
            limit="; ".join(f"{band.figure} {band.low:.6g} to {band.high:.6g}" for band in outside),
            remedy="with one re-run the band has no width: ask for repeats to learn it, or bring back what has changed",
        )
