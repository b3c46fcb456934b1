"""The report: complete, readable, and asking nothing of any server."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from tasks.adapters.surroundings import look_around
from tasks.contracts import Compressed, LayerReport, RegisteredModel, Tracked
from tasks.evidence_contracts import ItemsRef, TextFigures, TrainingGain
from tasks.recipes import Recipe
from tasks.report_contracts import ReleaseNote, Report
from tasks.report_page import lineage_svg, report_html
from tasks.report_plots import curve, grids, trade
from tasks.report_text import summary
from tests.adapters.test_registry import CHECK, DATA, MODEL, ORIGINAL, SCORECARD
from tests.tasks.test_timeline import RESTORED


def layers(method: str, bits: float) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(
            layer=f"model.layers.{block}.{kind}", method=method, rows=8, columns=4, sparsity=0.2, bits=bits,
            error=10.0 ** -(block + 1), seconds=0.5,
        )
        for block in range(12) for kind in ("self_attn.q_proj", "mlp.up_proj")
    )  # fmt: skip


STAGES = (
    Compressed(stage="prune", model=MODEL, layers=layers("sparsegpt", 32), tokens=512),
    Compressed(stage="quantize", model=MODEL, layers=layers("gptq", 4), tokens=512),
    Compressed(stage="distill", model=MODEL, losses=(3.0, 2.0, 2.5, 1.0), tokens=256),
)
REPORT = Report(
    title="compress-<script>alert(1)</script>", at="2026-11-27 08:00:00 UTC", recipe=Recipe(), original=ORIGINAL,
    data=DATA, splits={"calibration": "1" * 64, "training": "2" * 64, "evaluation": "3" * 64}, text_digest="4" * 64,
    card={"source": "wiki-leads", "calibration_blocks": 8}, stages=STAGES,
    cached={"prune": "true", "quantize": "false"}, exported=None, scorecard=SCORECARD,
    registered=RegisteredModel(
        name="slimline", version="7", alias="champion", model=MODEL, run_id="r" * 32, url="http://mlflow/v/7"
    ),
    tracked=Tracked(run_id="r" * 32, url="http://mlflow/r"), prefect_url="http://prefect/run",
    surroundings=dataclasses.asdict(look_around("cpu-AVX2", 2)),
    releases=(ReleaseNote(rollout=RESTORED, at="2026-11-27 09:00:00 UTC", prefect_url="http://prefect/release"),),
)  # fmt: skip


class Loads(HTMLParser):
    """Every address that a browser would ask for by itself; following a link is a person's doing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.asked += [str(given[name]) for name in ("src", "srcset", "data", "poster", "action") if name in given]
        self.ids += [str(given["id"])] if "id" in given else []
        if tag in ("a", "link"):
            self.links.append(str(given.get("href")))


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(REPORT)


def test_nothing_is_asked_of_any_server(page: str) -> None:
    seen = Loads()
    seen.feed(page)
    assert seen.asked and all(address.startswith("data:image/svg+xml;base64,") for address in seen.asked)
    assert not {"script", "link", "iframe", "object", "base"} & seen.tags
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page, "and the browser holds it to that"
    within = {link[1:] for link in seen.links if link.startswith("#")}
    assert within <= set(seen.ids), "each part that is linked to is there"


def test_text_of_others_stays_text(page: str) -> None:
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<script>" not in lineage_svg(REPORT)


def test_it_has_every_part(page: str) -> None:
    parts = ("scorecard", "trade", "stages", "releases", "lineage", "recipe", "environment")
    assert [part for part in parts if f'id="{part}"' not in page] == []
    for said in (
        "passed", "taken back", "perplexity ratio", "model.layers.11.mlp.up_proj", "1.00e-03", "calibration",
        "1" * 64, "from the cache", "git commit", "torch==", "&#34;sparsity&#34;: 0.2", "http://prefect/release",
        "prefers-color-scheme: dark", "@media print",
    ):  # fmt: skip
        assert said in page, said


def test_the_summary_is_sentences_with_the_figures() -> None:
    told = " ".join(summary(REPORT))
    for said in (
        "0.0 MB, 30% of what it was", "set 20% of the decoder's weights to zero (sparsegpt)", "in 4 bits (gptq)",
        "perplexity is 11.00 where the original has 10.00 (10.0% higher, which is worse)", "90.0%",
        "1.3 times as fast", "slimline version 7", "endpoint prod took it back", "not on AWS",
    ):  # fmt: skip
        assert said in told, said


def test_a_gate_that_stopped_the_run_has_a_report_too() -> None:
    failed = CHECK.model_copy(update={"passed": False, "observed": 2.0})
    scorecard = SCORECARD.model_copy(update={"checks": (failed,)})
    stopped = REPORT.model_copy(update={"scorecard": scorecard, "registered": None, "releases": ()})
    assert "nothing was registered and nothing released" in " ".join(summary(stopped))
    page = report_html(stopped)
    assert "gate failed" in page and "failed: use more bits" in page and 'id="releases"' not in page
    assert "not registered" in lineage_svg(stopped)


def test_plots_show_what_differs_and_leave_out_what_does_not() -> None:
    (error,) = grids(STAGES[1])
    assert (error.name, len(error.columns), error.rows) == ("output error", 12, ("q_proj", "up_proj"))
    assert error.columns == tuple(str(block) for block in range(12)), "by number, not by name"
    shades = {cell.column: cell.shade for cell in error.cells}
    assert shades[0] == 1 and shades[11] == pytest.approx(0) and shades[5] == pytest.approx(6 / 11)
    drawn = curve(STAGES[2].losses)
    assert drawn is not None and drawn.points[0] == (0, 0) and drawn.points[-1] == (1, 1)
    assert curve((1.0,)) is None
    bars = {bar.name: (bar.label, bar.good) for bar in trade(SCORECARD)}
    assert bars["bytes on disk"] == ("30%", True) and bars["perplexity"] == ("110%", False)
    assert bars["same next token"] == ("90%", False)


def test_the_picture_leads_from_the_text_to_the_endpoint() -> None:
    picture = ElementTree.fromstring(lineage_svg(REPORT))
    words = " ".join(text for text in picture.itertext() if text.strip())
    for said in ("wiki-leads", "calibration", "prune", "quantize", "distill", "slimline 7", "prod", "restored"):
        assert said in words
    boxes = picture.findall(".//{*}rect")
    arrows = picture.findall("{*}path")
    assert len(boxes) == 1 + 3 + 1 + 4 + 1 and len(arrows) == 4 + 3 + 4 + 1


def test_no_line_runs_beyond_its_box() -> None:
    """In a wide font, with the longest names; of a config's name its end is kept, which tells it from the others."""
    (note,) = REPORT.releases[-1:]
    endpoint, config = "a-rather-long-endpoint-name", "a-rather-long-endpoint-name-v12-c120abfbe008"
    rollout = note.rollout.model_copy(update={"endpoint": endpoint, "config": config})
    data = REPORT.data.model_copy(
        update={"name": "databricks-dolly-15k-and-more", "licence": "CC BY-SA 4.0, attribution"}
    )
    long = REPORT.model_copy(update={"releases": (note.model_copy(update={"rollout": rollout}),), "data": data})
    drawn = ElementTree.fromstring(lineage_svg(long))
    for group in drawn.findall(".//{*}g"):
        box, texts = group.find("{*}rect"), group.findall("{*}text")
        assert box is not None and texts
        right = float(box.attrib["x"]) + float(box.attrib["width"])
        for text in texts:
            font = FontProperties(family="DejaVu Sans", weight="bold" if text.get("font-weight") else "normal")
            wide = TextPath((0, 0), text.text or "", size=float(text.get("font-size", "11")), prop=font).get_extents()
            assert float(text.attrib["x"]) + wide.x1 <= right, text.text
    assert "c120abfbe008" in " ".join(drawn.itertext())


def test_what_training_changed_and_how_the_champion_was_compared_stand_in_the_report() -> None:
    ends = {"ratio_lower": 0.90, "ratio_upper": 0.97, "rise_lower": 0.0, "rise_upper": 0.02}
    rows = tuple(
        TextFigures(role=role, name="m", perplexity=perplexity, accuracy=0.4, ratio=perplexity / 20, rise=0.01, **ends)
        for role, perplexity in (("start", 20.0), ("trained", 18.8))
    )
    gain = TrainingGain(start="base", digest="s", items=ItemsRef(uri="u", digest="d", items=8, positions=80), rows=rows)
    told = {"training": gain, "champion": "slimline 6", "champion_original": "another"}
    report = REPORT.model_copy(update={"scorecard": SCORECARD.model_copy(update=told)})
    assert "Training lowered the perplexity by 6.00% (95% sure: by at least 3.00%)" in summary(report)[1]
    page = report_html(report)
    assert "What training changed" in page and "before training: m" in page
    assert "slimline 6. It was made from another original" in page
