"""Read what a version's run recorded, compare re-runs with it, and write the verdict down."""

from __future__ import annotations

import json
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import ValidationError

from tasks.adapters.lineage_books import REPRODUCES, Books
from tasks.adapters.surroundings import Surroundings, difference
from tasks.contracts import Made, ModelRef, Tracked
from tasks.errors import NotReproduced, RefusedData, RefusedModel
from tasks.lineage import books
from tasks.preflight import require_mlflow
from tasks.provenance import PARAMETERS, SURROUNDINGS, surroundings
from tasks.record import tracking
from tasks.register import registry
from tasks.reproduction import Recorded, Repeat, Reproduction, bands, figures_of, markdown, repeat_of
from tasks.retrying import network_task
from tasks.runpages import tag_run

_REPEAT = "reproduction.json"


@network_task("recorded-{model}-{version}")
def read_recorded(model: str, version: str) -> Recorded:
    """The parameters, figures and surroundings of the run that made a version.

    Raises:
        RefusedModel: there is no such version, or its run did not record them: a reader's, or an older one.
    """
    require_mlflow()
    ledger = books()
    found = ledger.version(model, version)
    run = ledger.run(found.run_id)
    files = {name: ledger.file(run.id, name) for name in (PARAMETERS, SURROUNDINGS, "scorecard.json")}
    given: dict[str, Any] = json.loads(files[PARAMETERS] or "{}")
    if "retraining" in given:
        raise RefusedModel(
            f"{found.title} cannot be made again yet: it was trained first",
            observed=f"run {run.id}: trained from {run.tags.get('slimline.trained_from', 'an unknown model')}",
            limit="a version that the compress flow has registered",
            remedy="compress its trained model, which stands in the run as the original, and reproduce that version",
        )
    try:
        return Recorded(
            name=found.name, version=found.version, run_id=run.id, url=found.url,
            **{part: given[part] for part in ("model", "data", "recipe", "gate")},
            evaluation=given.get("evaluation", {}),  # an earlier run had none to choose
            scorecard=json.loads(files["scorecard.json"] or "{}"),
            text_digest=run.tags["slimline.text_digest"], surroundings=str(files[SURROUNDINGS]),
        )  # fmt: skip
    except (KeyError, ValidationError) as error:
        raise RefusedModel(
            f"{found.title} cannot be made again from its record",
            observed=f"run {run.id}: {type(error).__name__} {str(error).splitlines()[0]}",
            limit="a version that the compress flow has registered, with its parameters",
            remedy="compress the model again; readers cannot be reproduced yet",
        ) from error


@network_task("same-inputs-{recorded.version}")
def require_same_inputs(recorded: Recorded, original: ModelRef, text_digest: str) -> None:
    """Stop here when model or text are not what they were: nothing that follows could be compared.

    Raises:
        RefusedModel: the model's files are other ones.
        RefusedData: the text is another one.
    """
    was = recorded.scorecard.baseline_model.digest
    if original.digest != was:
        raise RefusedModel(
            f"{recorded.model.source} is not the model that {recorded.title} was made from", observed=original.digest,
            limit=was, remedy="bring its files back, or compress the model that is there as a new version",
        )  # fmt: skip
    if text_digest != recorded.text_digest:
        raise RefusedData(
            f"{recorded.data.source} is not the text that {recorded.title} was made with", observed=text_digest,
            limit=recorded.text_digest,
            remedy="bring the text back, or compress with the one that is there as a new version",
        )  # fmt: skip


@network_task("record-repeat")
def record_repeat(tracked: Tracked, recorded: Recorded, made: Made) -> Repeat:
    """Keep a re-run's figures with its MLflow run, for the bands of later ones."""
    repeat = repeat_of(made, tracked.run_id, tracked.url)
    same = repeat.digest == recorded.scorecard.candidate_model.digest
    verdict = "bit for bit" if same else "other bytes"
    tracking().tag(tracked.run_id, {REPRODUCES: recorded.title, "slimline.verdict": verdict})
    tracking().log_files(tracked.run_id, {_REPEAT: repeat.model_dump_json(indent=1)})
    return repeat


@network_task("compare-{recorded.version}")
def compare(recorded: Recorded, repeats: tuple[Repeat, ...]) -> Reproduction:
    """Recorded figures beside the bands of these re-runs and of all earlier ones in the same surroundings."""
    now, data = surroundings(), recorded.scorecard.dataset_digest
    other = sorted({repeat.dataset_digest for repeat in repeats} - {data})
    every = (*_earlier(books(), recorded, now, {repeat.run_id for repeat in repeats}), *repeats)
    return Reproduction(
        name=recorded.name,
        version=recorded.version,
        url=recorded.url,
        digest=recorded.scorecard.candidate_model.digest,
        repeats=every,
        bands=bands(figures_of(recorded.scorecard), every),
        changed=(
            *(f"data set: {data} → {digest}" for digest in other),
            *difference(Surroundings.parse(recorded.surroundings), now),
        ),
    )


def _earlier(ledger: Books, recorded: Recorded, now: Surroundings, known: set[str]) -> list[Repeat]:
    found = []
    for run in ledger.reproductions(ledger.version(recorded.name, recorded.version)):
        told, around = ledger.file(run.id, _REPEAT), ledger.file(run.id, SURROUNDINGS)
        if run.id in known or not told or not around or difference(Surroundings.parse(around), now):
            continue
        found.append(Repeat.model_validate_json(told).model_copy(update={"earlier": True}))
    return found


@network_task("record-reproduction")
def record_reproduction(found: Reproduction) -> None:
    """The verdict on the run page, and as tags of the version."""
    create_markdown_artifact(markdown(found), key="reproduction", description="Can this version be made again?")
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
