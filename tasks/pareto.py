"""Every tried recipe as a picture: bytes against perplexity, the front, the budgets and the choice. SVG text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from tasks.search_contracts import Comparison, Tried
from tasks.search_plan import Budgets
from tasks.timeline import BAD, GOOD, NEW, OLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_front(comparison: Comparison, budgets: Budgets) -> str:
    """The SVG. What was stopped is drawn where it stood on training blocks; what failed is not drawn.

    Raises:
        ValueError: no recipe came far enough to be drawn.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    shown = [each for each in comparison.tried if each.bytes_ratio is not None and each.perplexity_ratio is not None]
    if not shown:
        raise ValueError("a search in which every recipe failed has no front")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "slimline", "font.size": 9}):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        axes = figure.subplots()
        _draw_budgets(axes, budgets)
        _draw_points(axes, shown)
        _draw_chosen(axes, comparison)
        axes.set_xlabel("Folder bytes ÷ original in float32")
        axes.set_ylabel("Perplexity ÷ original, held-out text")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        axes.set_title(_title(comparison), loc="left", fontsize=10)
        axes.grid(visible=True, which="both", linewidth=0.3, color="#e5e7eb")
        axes.legend(frameon=False, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "Slimline"})
    return text.getvalue()


def _title(comparison: Comparison) -> str:
    chosen = None if comparison.chosen is None else comparison.of(comparison.chosen).recipe.name
    return f"{comparison.original.name}: {'no recipe within every budget' if chosen is None else f'{chosen} is chosen'}"


def _draw_budgets(axes: Axes, budgets: Budgets) -> None:
    axes.axvline(budgets.max_bytes_ratio, color=OLD, linewidth=1, linestyle="--", label="budgets")
    axes.axhline(budgets.max_perplexity_ratio, color=OLD, linewidth=1, linestyle="--")


def _draw_points(axes: Axes, shown: list[Tried]) -> None:
    groups = (
        ("within every budget", GOOD, "o", [each for each in shown if each.fits]),
        ("over a budget", BAD, "o", [each for each in shown if each.outcome == "measured" and not each.fits]),
        ("stopped half way (training text)", OLD, "x", [each for each in shown if each.outcome == "stopped"]),
    )
    for name, colour, marker, points in groups:
        if points:
            across, up = _places(points)
            axes.scatter(across, up, c=colour, marker=marker, s=36, label=name, zorder=3)


def _draw_chosen(axes: Axes, comparison: Comparison) -> None:
    front = [comparison.of(number) for number in comparison.front]
    if front:
        axes.plot(*_places(front), color=NEW, linewidth=1.2, label="Pareto front", zorder=2)
    for each in front:
        chosen = each.number == comparison.chosen
        (across,), (up,) = _places([each])
        axes.annotate(
            f"{each.recipe.name} (chosen)" if chosen else each.recipe.name, (across, up),
            xytext=(6, 5), textcoords="offset points", fontsize=9 if chosen else 8,
            fontweight="bold" if chosen else "normal", color=GOOD if chosen else "#374151",
        )  # fmt: skip


def _places(points: list[Tried]) -> tuple[list[float], list[float]]:
    return [each.bytes_ratio or 0.0 for each in points], [each.perplexity_ratio or 0.0 for each in points]
