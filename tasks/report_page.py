"""The report and the lineage picture as text: one HTML file that asks nothing of any server, and one SVG."""

from __future__ import annotations

import base64
import json
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from tasks.contracts import Rollout
from tasks.evidence_tables import evidence_tables, gate_table
from tasks.figures import HEAD, READER_HEAD, figures, megabytes, reader_figures
from tasks.findings import last_word
from tasks.lineage_picture import HEIGHT, WIDTH, picture
from tasks.reader_contracts import ReaderScorecard
from tasks.report_contracts import Report
from tasks.report_plots import curve, grids, trade
from tasks.report_text import summary
from tasks.reporting import rollout_rows
from tasks.timeline import draw_timeline
from tasks.training_text import champion_sentence


def report_html(report: Report) -> str:
    """The whole page. Every text is escaped; images are inline."""
    card = report.scorecard
    reader = isinstance(card, ReaderScorecard)
    releases = [(note, _timeline(note.rollout) if note.rollout.observations else "") for note in report.releases]
    return _environment().get_template("report.html.j2").render(
        report=report,
        summary=summary(report),
        reader=reader,
        small="student" if reader else "compressed model",
        whole="teacher" if reader else "original",
        head=READER_HEAD if reader else HEAD,
        figures=reader_figures(card) if isinstance(card, ReaderScorecard) else figures(card),
        tables=[gate_table(card.checks), *([] if isinstance(card, ReaderScorecard) else evidence_tables(card))],
        trade=trade(card),
        stages=[(stage, grids(stage), curve(stage.losses)) for stage in report.stages],
        releases=releases,
        rows=rollout_rows,
        last_word=last_word,
        champion_sentence=champion_sentence,
        picture=picture(report),
        width=WIDTH,
        height=HEIGHT,
        recipe=json.dumps(report.recipe.model_dump(mode="json"), indent=2),
        megabytes=megabytes,
    )  # fmt: skip


def lineage_svg(report: Report) -> str:
    """The lineage picture alone."""
    template = _environment().get_template("lineage.svg.j2")
    return template.render(picture=picture(report), width=WIDTH, height=HEIGHT)


def _timeline(rollout: Rollout) -> str:
    """As a data address: the pictures of two releases would share their elements' names."""
    return base64.b64encode(draw_timeline(rollout).encode()).decode()


@cache
def _environment() -> Environment:
    # Everything is HTML here, the SVG too, whatever the template's name ends with.
    return Environment(
        loader=PackageLoader("tasks"),
        autoescape=select_autoescape(default=True, default_for_string=True, enabled_extensions=("j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
