"""The report: complete, readable, and asking nothing of any server."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from tasks.adapters.surroundings import look_around
from tasks.contracts import Compressed, LayerReport, RegisteredModel, Tracked
from tasks.evidence_contracts import Evidence, ItemsRef, SliceScore, TextFigures, TrainingGain
from tasks.evidence_tables import BY_LABEL, evidence_tables
from tasks.lineage_picture import picture
from tasks.reader_contracts import QuestionsRef, ReaderScore, ReaderScorecard
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import Recipe
from tasks.report_contracts import ReleaseNote, Report
from tasks.report_page import lineage_svg, report_html
from tasks.report_plots import curve, grids, trade
from tasks.report_text import summary
from tests.adapters.test_registry import CHECK, DATA, MODEL, ORIGINAL, SCORECARD
from tests.flows.browser import browser, needs_browser
from tests.tasks.test_timeline import RESTORED


def layers(method: str, bits: float) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(
            layer=f"model.layers.{block}.{kind}", method=method, rows=8, columns=4, sparsity=0.2, bits=bits,
            error=10.0 ** -(block + 1), seconds=0.5,
        )
        for block in range(12) for kind in ("self_attn.q_proj", "mlp.up_proj")
    )  # fmt: skip


A4 = (695, 1000)  # pixels of 1/96 inch between the margins, across; the height plays no part
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


READER = ReaderScorecard(
    candidate_model=MODEL, baseline_model=ORIGINAL, dataset_digest=DATA.digest,
    candidate=ReaderScore(exact_match=0.7, f1=0.8, bytes=300, ms_per_question=2, questions=100),
    baseline=ReaderScore(exact_match=0.75, f1=0.82, bytes=1000, ms_per_question=4, questions=100),
    before=ReaderScore(exact_match=0.1, f1=0.2, bytes=300, ms_per_question=2, questions=100),
    f1_drop=0.02, f1_drop_upper=0.04, exact_drop=0.05, exact_drop_upper=0.09, exact_p=0.31, contexts=60,
    checks=(CHECK.model_copy(update={"metric": "F1 drop, 95 % upper end", "observed": 0.04, "limit": 0.05}),),
    sample="Who? → <b>nobody</b>",
)  # fmt: skip


def reader_report() -> Report:
    teaching = {"teaching": "1" * 64, "training": "2" * 64, "evaluation": "3" * 64}
    stages = tuple(
        Compressed(stage=stage, model=MODEL, losses=losses)
        for stage, losses in (("train-teacher", (3.0, 1.0)), ("drop-blocks", ()), ("teach-reader", (2.0, 1.5)))
    )
    data = QuestionsRef(
        uri="datasets/q", digest="c" * 64, name="synthetic", licence="Apache-2.0", teaching=960, training=320,
        evaluation=100,
    )  # fmt: skip
    changed = {"recipe": ReaderRecipe(), "scorecard": READER, "data": data, "splits": teaching, "stages": stages}
    return REPORT.model_copy(update=changed | {"releases": ()})


def test_a_student_without_questions_of_its_own_is_drawn_with_its_teachers() -> None:
    report = reader_report()
    shared = report.data.model_copy(update={"training": 0})
    splits = {split: digest for split, digest in report.splits.items() if split in shared.splits}
    assert list(splits) == ["teaching", "evaluation"]
    drawn = picture(report.model_copy(update={"data": shared, "splits": splits}))
    assert len(drawn.arrows) == len(picture(report).arrows) - 1, "the text's to the part that is not there"


def test_a_reader_has_the_same_page_with_its_own_figures() -> None:
    report = reader_report()
    assert Report.model_validate_json(report.model_dump_json()) == report, "as a later release reads it back"
    page = report_html(report)
    parts = ("scorecard", "trade", "stages", "lineage", "recipe", "environment")
    assert [part for part in parts if f'id="{part}"' not in page] == []
    for said in (
        "F1 drop, 95 % upper end", "F1, untaught", "teacher", "student", "the teacher, 100 %", "1,380 questions",
        "960 questions", "&lt;b&gt;nobody&lt;/b&gt;", "What it answers", "source questions",
        "&#34;teacher_epochs&#34;: 2",
        "train-teacher → drop-blocks → teach-reader", "p of a difference in exact match", "gate passed",
    ):  # fmt: skip
        assert said in page, said
    for not_of_readers in ("perplexity", "tokens a block", "same next token"):
        assert not_of_readers not in page
    told = " ".join(summary(report))
    for said in (
        "trained it as the teacher (2 passes", "kept 1 of its blocks", "100 held-out questions", "80.0%", "82.0%",
        "before it was taught it was 20.0%", "at most 4.0%", "50% of the teacher's time", "slimline version 7",
    ):  # fmt: skip
        assert said in told, said
    bars = {bar.name: (bar.label, bar.good) for bar in trade(READER)}
    assert bars["bytes on disk"] == ("30%", True) and bars["F1"] == ("98%", False)


def test_a_reader_whose_gate_needs_more_contexts_says_so_and_was_not_registered() -> None:
    unsure = CHECK.model_copy(update={"passed": False, "verdict": "inconclusive"})
    scorecard = READER.model_copy(update={"checks": (unsure,)})
    page = report_html(reader_report().model_copy(update={"scorecard": scorecard, "registered": None}))
    assert "gate inconclusive" in page and "It was too few items to tell" in page and "nothing was registered" in page


def test_the_picture_of_a_reader_leads_from_its_questions() -> None:
    picture = ElementTree.fromstring(lineage_svg(reader_report()))
    words = " ".join(text for text in picture.itertext() if text.strip())
    for said in ("960 questions", "100 questions", "train-teacher", "drop-blocks", "teach-reader", "slimline 7"):
        assert said in words
    assert len(picture.findall("{*}path")) == 4 + 3 + 2 + 1  # stages and version, splits, what reads them, evaluation


def test_slices_by_label_are_a_table_of_their_own_with_the_worst_first() -> None:
    def of(name: str, compressed: float, by: Literal["text", "label"]) -> SliceScore:
        return SliceScore(
            name=name, by=by, positions=1200, blocks=3, baseline_perplexity=10, candidate_perplexity=compressed,
            agreement=0.9, ratio_lower=compressed / 10 - 0.05, ratio_upper=None if name == "birds" else 1.4,
        )  # fmt: skip

    slices = (of("after 64 tokens", 11, "text"), of("birds", 11, "label"), of("<i>frogs", 13, "label"))
    evidence = Evidence(items=ItemsRef(uri="e", digest="e" * 64, items=2, positions=126), slices=slices)
    scorecard = SCORECARD.model_copy(update={"evidence": evidence})
    by_text, by_label = evidence_tables(scorecard)
    assert [row[0] for row in by_text.rows] == ["after 64 tokens"]
    assert [(row[0], row[1], row[2], row[5], row[6]) for row in by_label.rows] == [
        ("<i>frogs", "1,200", "3", "1.300", "1.250 – 1.400"), ("birds", "1,200", "3", "1.100", "–"),
    ]  # fmt: skip
    page = report_html(REPORT.model_copy(update={"scorecard": scorecard}))
    assert f"<h3>{BY_LABEL}</h3>" in page and "&lt;i&gt;frogs" in page and "<i>" not in page
    assert [table.title for table in evidence_tables(SCORECARD)] == []


@needs_browser
@pytest.mark.parametrize(("report", "most_pages"), [(REPORT, 7), (reader_report(), 5)])
def test_on_paper_nothing_is_cut_hidden_or_dark(report: Report, most_pages: int, tmp_path: Path) -> None:
    """On a screen that is dark, with the details closed: printed it is light, open, and no wider than the paper."""
    file = tmp_path / "report.html"
    file.write_text(report_html(report), encoding="utf-8")
    with browser(*A4) as page:
        page.goto(file.as_uri())
        page.emulate_media(color_scheme="dark", media="print")
        beyond = page.evaluate(
            """() => [...document.querySelectorAll("main *")].filter(each => each.checkVisibility()
               && !each.closest(".landscape") && each.getBoundingClientRect().right > innerWidth + 1)
               .map(each => each.tagName + " " + each.textContent.slice(0, 40))"""
        )
        assert beyond == []
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        for closed in ("details table td", "pre.packages"):
            if page.locator(closed).count():
                assert page.locator(closed).first.is_visible(), closed
        headless = "[...document.querySelectorAll('table')].filter(each => each.querySelector('th') && !each.tHead)"
        assert page.evaluate(f"{headless}.length") == 0, "a head that comes again on the next page"
        pdf = page.pdf(prefer_css_page_size=True, format="A4")
    sizes = [tuple(map(float, box)) for box in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)]
    assert 3 <= len(sizes) <= most_pages, "no page that is all but empty"
    assert [wide > high for wide, high in sizes].count(True) == 1, "the lineage lies across, on one page"


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
