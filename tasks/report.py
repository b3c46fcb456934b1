"""Write the report of a run that has made a model smaller, and add each release of its version to it."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

from prefect.runtime import flow_run

from tasks.adapters.tracking import Tracking
from tasks.contracts import Made, RegisteredModel, Rollout, Tracked
from tasks.lineage import markdown_of, version_tree
from tasks.lineage_tree import clock
from tasks.provenance import data_facts, surroundings
from tasks.reader_contracts import MadeReader
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import Recipe
from tasks.record import tracking
from tasks.report_contracts import ReleaseNote, Report
from tasks.report_page import lineage_svg, report_html
from tasks.retrying import network_task
from tasks.runpages import on_top, picture_on_top

PAGE, FACTS, PICTURE, TREE = "report/report.html", "report/report.json", "lineage/lineage.svg", "lineage/lineage.md"


@network_task("record-report")
def record_report(
    tracked: Tracked,
    recipe: Recipe | ReaderRecipe,
    made: Made | MadeReader,
    registered: RegisteredModel | None = None,
) -> None:
    """The report in MLflow, with a link to it on the run page, and the lineage as a picture on both. A run that came
    to a version that was there already links to the report of the run that made it: figures and verdict are the same,
    and its releases stand there.
    """
    books = tracking()
    if registered is not None and registered.run_id != tracked.run_id and books.has_file(registered.run_id, PAGE):
        _link(books, registered.run_id)
        return
    facts, exported = data_facts(made.data), made.exported if isinstance(made, Made) else None
    names = [stage.stage for stage in made.stages] + (["export"] if exported else [])
    report = Report(
        title=str(flow_run.name or made.scorecard.candidate_model.name),
        at=clock(datetime.now(UTC)),
        recipe=recipe,
        original=made.original,
        data=made.data,
        splits=facts.splits,
        text_digest=facts.text,
        card=json.loads(facts.card),
        stages=made.stages,
        cached={name: str(name in made.reused).lower() for name in names},
        exported=exported,
        scorecard=made.scorecard,
        registered=registered,
        tracked=tracked,
        prefect_url=flow_run.ui_url or "",
        surroundings=dataclasses.asdict(surroundings()),
    )
    _publish(books, report)


@network_task("report-{rollout.phase}")
def report_rollout(rollout: Rollout) -> None:
    """Add the release to the report of the run that made its version. The original has none, nor has a version of
    before there were reports. A release that moved nothing adds nothing: the page is linked to, as it is.
    """
    run_id = rollout.registered.run_id
    books = tracking()
    text = books.read_file(run_id, FACTS) if run_id else None
    if text is None:
        return
    if rollout.phase == "unchanged":
        _link(books, run_id)
        return
    report, url = Report.model_validate_json(text), flow_run.ui_url or ""
    note = ReleaseNote(rollout=rollout, at=clock(datetime.now(UTC)), prefect_url=url)
    others = tuple(each for each in report.releases if not url or each.prefect_url != url)  # written again by a retry
    _publish(books, report.model_copy(update={"registered": rollout.registered, "releases": (*others, note)}))


def _publish(books: Tracking, report: Report) -> None:
    run_id, registered, tree = report.tracked.run_id, report.registered, ""
    if registered is not None:
        version = version_tree(registered.name, registered.version)
        tree, report = markdown_of([version]), report.model_copy(update={"deleted": version.deleted})
    picture = lineage_svg(report)
    files = {PAGE: report_html(report), FACTS: report.model_dump_json(), PICTURE: picture}
    books.log_files(run_id, files | ({TREE: tree} if tree else {}))
    _link(books, run_id)
    picture_on_top("lineage", picture, f"Lineage of {report.title}", "From the data to what serves it", tree)


def _link(books: Tracking, run_id: str) -> None:
    on_top(
        "report",
        f"[Report]({books.file_url(run_id, PAGE)})",
        "Scorecard, layers, trade, rollout, lineage, recipe and environment on one page",
    )
