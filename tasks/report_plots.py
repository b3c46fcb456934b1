"""Geometry of the report's plots: numbers only; the template draws them, so text is escaped in one place."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.contracts import Compressed, LayerReport, Scorecard
from tasks.reader_contracts import ReaderScorecard

Measure = Literal["error", "sparsity", "bits"]
_BLOCK = re.compile(r"\.(\d+)\.")
_NAMES = {"error": "output error", "sparsity": "zeros", "bits": "bits a weight"}


@dataclass(frozen=True)
class Cell:
    """One layer. ``shade`` is 0–1 between the plot's least and most."""

    column: int
    row: int
    shade: float
    label: str


@dataclass(frozen=True)
class Grid:
    """Layers by decoder block (columns) and kind of layer (rows)."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    least: str
    most: str


@dataclass(frozen=True)
class Bar:
    """One figure of the compressed model as a share of the original's. ``good`` is whether that is the wanted side."""

    name: str
    share: float
    label: str
    good: bool


@dataclass(frozen=True)
class Curve:
    """Losses: ``points`` in a box of 1 × 1, y downwards."""

    points: tuple[tuple[float, float], ...]
    first: str
    last: str
    least: str
    most: str


def grids(stage: Compressed) -> list[Grid]:
    """Error, zeros and bits of each layer, as far as they differ from layer to layer."""
    measures: tuple[Measure, ...] = ("error", "sparsity", "bits")
    return [grid for measure in measures if (grid := _grid(stage.layers, measure)) is not None]


def _grid(layers: Sequence[LayerReport], measure: Measure) -> Grid | None:
    known = [(layer, value) for layer in layers if (value := getattr(layer, measure)) is not None]
    values = [float(value) for _, value in known]
    if not values or (measure != "error" and max(values) - min(values) < 1e-3):
        return None  # every layer the same: the table above says it
    places = [_place(layer.layer) for layer, _ in known]
    columns = sorted({block for block, _ in places}, key=lambda block: (len(block), block))
    rows = list(dict.fromkeys(kind for _, kind in places))
    low, high = min(values), max(values)
    cells = tuple(
        Cell(
            columns.index(block),
            rows.index(kind),
            _shade(value, low, high, measure),
            f"{layer.layer}: {_said(value, measure)}",
        )
        for (layer, _), value, (block, kind) in zip(known, values, places, strict=True)
    )
    return Grid(_NAMES[measure], tuple(columns), tuple(rows), cells, _said(low, measure), _said(high, measure))


def _place(layer: str) -> tuple[str, str]:
    """(block, kind): ``model.layers.3.mlp.up_proj`` is 3, up_proj."""
    found = _BLOCK.search(layer)
    return (found[1] if found else "", layer.rpartition(".")[2])


def _shade(value: float, low: float, high: float, measure: Measure) -> float:
    """Errors differ by orders of magnitude: theirs is logarithmic."""
    if measure == "error" and low > 0:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 1.0 if high <= low else (value - low) / (high - low)


def _said(value: float, measure: Measure) -> str:
    return {"error": f"{value:.1e}", "sparsity": f"{value:.1%}", "bits": f"{value:g}"}[measure]


def trade(scorecard: Scorecard | ReaderScorecard) -> list[Bar]:
    """Size, quality and latency of the compressed model, each beside the original at 100 %."""
    bars = []
    for name, after, before, less_is_good in _pairs(scorecard):
        if before and after:
            share = after / before
            bars.append(Bar(name, share, f"{share:.0%}", share <= 1 if less_is_good else share >= 1))
    return bars


def _pairs(scorecard: Scorecard | ReaderScorecard) -> list[tuple[str, float, float, bool]]:
    """(figure, after, before, whether less is good)."""
    size = ("bytes on disk", scorecard.candidate.bytes, scorecard.baseline.bytes, True)
    if isinstance(scorecard, ReaderScorecard):
        learnt, teacher = scorecard.candidate, scorecard.baseline
        return [
            size,
            ("computing a question", learnt.ms_per_question, teacher.ms_per_question, True),
            ("F1", learnt.f1, teacher.f1, False),
            ("exact match", learnt.exact_match, teacher.exact_match, False),
        ]
    was, now = scorecard.baseline, scorecard.candidate
    return [
        size,
        ("perplexity", now.perplexity, was.perplexity, True),
        ("time to first token", now.first_token_ms, was.first_token_ms, True),
        ("time per following token", now.per_token_ms, was.per_token_ms, True),
        ("same next token", now.agreement, was.agreement, False),
    ]


def curve(losses: Sequence[float]) -> Curve | None:
    """The loss of each step; none for fewer than two."""
    if len(losses) < 2:
        return None
    low, high = min(losses), max(losses)
    span = high - low or 1.0
    last = len(losses) - 1
    points = tuple((step / last, (high - loss) / span) for step, loss in enumerate(losses))
    return Curve(points, "1", str(len(losses)), f"{low:.3g}", f"{high:.3g}")
