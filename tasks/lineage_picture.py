"""Lineage as boxes and arrows, left to right: text → parts → stages → version → endpoints. Geometry only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.contracts import DatasetRef
from tasks.figures import megabytes
from tasks.lineage_tree import short
from tasks.reader_contracts import QuestionsRef
from tasks.report_contracts import Report

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 172, 66, 34, 22, 12
# Characters that a box holds in a wide font: the viewer's font is not known.
TITLE_LENGTH, LINE_LENGTH = 19, 23
# Which part of the data set a stage looks at.
_READS = {
    "train": "training", "prune": "calibration", "quantize": "calibration", "distill": "training",
    "train-teacher": "teaching", "teach-reader": "training",
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    key: str
    kind: str
    x: int
    y: int
    title: str
    lines: tuple[str, ...]

    @property
    def fitted(self) -> Box:
        """With texts that do not run beyond it."""
        return replace(
            self, title=fit(self.title, TITLE_LENGTH), lines=tuple(fit(line, LINE_LENGTH) for line in self.lines)
        )


@dataclass(frozen=True)
class Arrow:
    """A path of SVG, from the right or upper side of one box to the left or lower side of another."""

    path: str


@dataclass(frozen=True)
class Picture:
    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    title: str


def fit(text: str, most: int) -> str:
    """Cut in the middle where it is too long: a config's name ends in what tells it from the others."""
    if len(text) <= most:
        return text
    end = 12
    return f"{text[: most - end - 1]}…{text[-end:]}"


def picture(report: Report) -> Picture:
    """The models in the upper row, the data below, endpoints on the right."""
    boxes = [*_models(report), *_data(report), *_ends(report)]
    at = {box.key: box for box in boxes}
    links = [(a.key, b.key) for a, b in zip(_models(report), _models(report)[1:], strict=False)]
    links += [("text", split) for split in report.splits]
    read = ((_read(stage.stage, report), stage.stage) for stage in report.stages)
    links += [(split, stage) for split, stage in read if split in report.splits]
    links += [("evaluation", "end")] if "evaluation" in report.splits else []
    links += [("end", box.key) for box in boxes if box.key.startswith("endpoint ")]
    arrows = tuple(_arrow(at[a], at[b]) for a, b in links)
    return Picture(
        width=max(box.x for box in boxes) + WIDTH + MARGIN,
        height=max(box.y for box in boxes) + HEIGHT + MARGIN,
        boxes=tuple(box.fitted for box in boxes), arrows=arrows, title=f"Lineage of {report.title}",
    )  # fmt: skip


def _models(report: Report) -> list[Box]:
    """One a stage, in a row; the last is the version, or the refusal."""
    original = report.original
    found: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("original", "model", original.name, (megabytes(original.bytes), f"sha {short(original.digest)}")),
    ]
    for stage in report.stages:
        cached = {"true": "from the cache", "false": "computed"}.get(report.cached.get(stage.stage, ""), "")
        size = f"{megabytes(stage.model.bytes)}, {stage.model.bits:g} bit"
        found.append((stage.stage, "stage", stage.stage, (size, f"sha {short(stage.model.digest)}", cached)))
    if report.exported is not None and report.exported.model is not None:
        model = report.exported.model
        found.append(("export", "stage", "export", (megabytes(model.bytes), f"sha {short(model.digest)}")))
    registered = report.registered
    if registered is None:
        found.append(("end", "refused", "not registered", ("the gate stopped it",)))
    else:
        alias = "version deleted" if report.deleted else f"alias {registered.alias}" if registered.alias else "no alias"
        kind = "refused" if report.deleted else "version"
        lines = (alias, f"MLflow run {report.tracked.run_id[:8]}")
        found.append(("end", kind, f"{registered.name} {registered.version}", lines))
    return [
        Box(key, kind, _x(column), MARGIN, title, tuple(line for line in lines if line))
        for column, (key, kind, title, lines) in enumerate(found)
    ]


def _data(report: Report) -> list[Box]:
    below = MARGIN + HEIGHT + 2 * GAP_Y
    boxes = [
        Box(
            "text",
            "data",
            _x(0),
            below + HEIGHT + GAP_Y,
            report.data.name,
            (f"sha {short(report.text_digest)}", report.data.licence),
        )
    ]
    for row, (split, digest) in enumerate(report.splits.items()):
        lines = (_amount(report.data, split), f"sha {short(digest)}")
        boxes.append(Box(split, "data", _x(1), below + row * (HEIGHT + GAP_Y), split, lines))
    return boxes


def _read(stage: str, report: Report) -> str:
    """The part that ``stage`` looks at; a student without questions of its own has its teacher's."""
    part = _READS.get(stage, "")
    return "teaching" if stage == "teach-reader" and part not in report.splits else part


def _amount(data: DatasetRef | QuestionsRef, split: str) -> str:
    if isinstance(data, QuestionsRef):
        return f"{getattr(data, split):,} questions"
    return f"{getattr(data, f'{split}_blocks')} × {data.block_tokens} tokens"


def _ends(report: Report) -> list[Box]:
    """The newest release of each endpoint."""
    newest = {note.rollout.endpoint: note for note in report.releases}
    column = len(_models(report))
    return [
        Box(
            f"endpoint {name}", "refused" if note.rollout.phase == "restored" else "endpoint",
            _x(column), MARGIN + row * (HEIGHT + GAP_Y), name, (note.rollout.phase, note.rollout.config, note.at),
        )
        for row, (name, note) in enumerate(newest.items())
    ]  # fmt: skip


def _x(column: int) -> int:
    return MARGIN + column * (WIDTH + GAP_X)


def _arrow(start: Box, end: Box) -> Arrow:
    if start.y <= end.y or start.kind != "data":
        x1, y1, x2, y2 = start.x + WIDTH, start.y + HEIGHT // 2, end.x, end.y + HEIGHT // 2
        middle = (x1 + x2) // 2
        return Arrow(f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}")
    if end.kind == "data":  # from the text up to a part of it
        x1, y1, x2, y2 = start.x + WIDTH, start.y + HEIGHT // 2, end.x, end.y + HEIGHT // 2
        return Arrow(f"M{x1},{y1} C{x1 + GAP_X},{y1} {x2 - GAP_X},{y2} {x2},{y2}")
    x1, y1, x2, y2 = start.x + WIDTH, start.y + HEIGHT // 2, end.x + WIDTH // 2, end.y + HEIGHT
    if x2 <= x1:  # straight above
        x1, y1 = start.x + WIDTH // 2, start.y
    return Arrow(f"M{x1},{y1} C{x2},{y1} {x2},{y1} {x2},{y2}")
