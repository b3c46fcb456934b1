"""An observation for people: a picture and a page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from prefect.artifacts import create_link_artifact

from tasks.findings import finding_rows
from tasks.monitoring_contracts import Observed, Point
from tasks.runpages import on_top, picture_on_top
from tasks.timeline import BAD, GOOD, NEW, OLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"healthy": GOOD, "degraded": BAD, "no data": OLD}


def draw_observed(found: Observed) -> str:
    """The SVG: requests, latency and errors of both windows. The same observation is the same bytes."""
    from matplotlib import rc_context

    text = io.StringIO()
    # Text stays text, so that the file is small and searchable; the salt makes the same picture the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "slimline"}):
        figure_of(found).savefig(text, format="svg", metadata={"Date": None, "Creator": "Slimline"})
    return text.getvalue()


def figure_of(found: Observed) -> Figure:
    """Drawn on a figure of its own: no display, no state of the process."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.titlesize": 10}):
        figure = Figure(figsize=(9.6, 6.8), layout="constrained")
        latency, errors, requests = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        figure.suptitle(_title(found), x=0.01, ha="left", fontsize=9)
        _draw_latency(latency, found)
        _draw_errors(errors, found)
        _draw_requests(requests, found)
        latency.set_title(f"{found.state.upper()}", loc="left", color=_COLOURS[found.state], fontweight="bold")
        clock = "the service's clock (rehearsal)" if found.rehearsal else "the service's clock"
        requests.set_xlabel(f"Minutes to the observation, by {clock}")
        for axes in (latency, errors, requests):
            _finish(axes, found)
        for share, name in ((0.01, "the window before"), (0.51, "this window")):
            latency.annotate(name, (share, 0.96), xycoords="axes fraction", va="top", fontsize=8, color="#4b5563")
    return figure


def _title(found: Observed) -> str:
    lines = [f"Endpoint {found.endpoint}, {found.version or 'a version that is not registered'}, config {found.config}"]
    return "\n".join([*lines, *_wrapped(found.reason), *([found.rehearsal] if found.rehearsal else [])])


def _wrapped(text: str, width: int = 130) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)[:3]


def _at(found: Observed, point: Point) -> float:
    return (point.at - found.windows.until) / 60


def _draw_latency(axes: Axes, found: Observed) -> None:
    tail = f"{100 * found.latency_quantile:g}th percentile"
    points = found.windows.points
    for name, line, values in (  # the same line twice says nothing
        ("median", "-", [(_at(found, p), p.median_ms) for p in points if p.median_ms is not None]),
        (tail, "--", [(_at(found, p), p.tail_ms) for p in points if p.tail_ms is not None]),
    ):
        if values and (name == "median" or found.latency_quantile != 0.5):
            axes.plot(*zip(*values, strict=True), color=NEW, linestyle=line, marker="o", markersize=2.5, label=name)
    if found.promise.latency_ms is not None:
        axes.axhline(found.promise.latency_ms, color=GOOD, linewidth=1.2, linestyle=":", label="scorecard's promise")
    top = max((ms for p in points for ms in (p.median_ms, p.tail_ms) if ms is not None), default=1.0)
    axes.set_ylim(0, 1.25 * max(top, found.promise.latency_ms or 0.0))
    axes.set_ylabel("ModelLatency, ms")


def _draw_errors(axes: Axes, found: Observed) -> None:
    shares = [(_at(found, p), 100 * p.errors / p.requests) for p in found.windows.points if p.requests]
    if shares:
        axes.plot(*zip(*shares, strict=True), color=BAD, marker="o", markersize=2.5, linewidth=1.2)
    axes.set_ylim(-0.2, max(5.0, *(1.15 * share for _, share in shares)) if shares else 5.0)
    axes.set_ylabel("5xx answers, %")


def _draw_requests(axes: Axes, found: Observed) -> None:
    minutes = found.windows.period / 60
    points = found.windows.points
    rates = [p.requests / minutes for p in points]
    axes.bar([_at(found, p) for p in points], rates, width=0.9 * minutes, align="edge", color=OLD)
    axes.set_ylim(0, 1.15 * max(rates, default=1.0) or 1.0)
    axes.set_ylabel("Requests a minute")


def _finish(axes: Axes, found: Observed) -> None:
    windows = found.windows
    middle, since = (windows.middle - windows.until) / 60, (windows.since - windows.until) / 60
    axes.set_xlim(since, 0)
    axes.axvspan(middle, 0, color=_COLOURS[found.state], alpha=0.07, linewidth=0)
    axes.axvline(middle, color="#9ca3af", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.grid(True, color="#e5e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def report_observed(found: Observed, picture: str, page: str | None) -> None:
    """The picture as an artifact of its own, the page, and a link to the endpoint's page where there is one."""
    told = f"Latency, errors and requests of **{found.endpoint}**: {found.state}"
    picture_on_top("observed-timeline", picture, f"{found.endpoint}: {found.state}", told, found.rehearsal)
    on_top("observed", observed_markdown(found), f"How **{found.endpoint}** does")
    if page:
        create_link_artifact(page, f"Endpoint {found.endpoint}", key="endpoint", description="Fleets, weights, alarms")


def observed_markdown(found: Observed) -> str:
    """The verdict, what it rests on, and what it sets off."""
    windows = found.windows
    minutes = (windows.until - windows.middle) / 60
    lines = [
        f"# {found.endpoint}: {found.state}",
        found.reason,
        "",
        f"- serves `{found.config}`" + (f", {found.version}" if found.version else ""),
        f"- {windows.current.requests} requests in {minutes:.0f} minutes, {windows.before.requests} in as many before",
        f"- {found.promise.note}"
        + ("" if found.promise.latency_ms is None else f": {found.promise.latency_ms:.0f} ms an answer"),
        *(f"- {load.metric}: {load.average:.0f} % on average, {load.highest:.0f} % at most" for load in windows.loads),
        *(f"- alarm on {kind}: {state}" for kind, state in sorted(found.alarms.items())),
        *([] if found.alarms else ["- no standing alarm is there"]),
        *([f"- sets off: {found.act}"] if found.act != "report" else []),
        *([f"- {found.rehearsal}"] if found.rehearsal else []),
    ]
    return "\n".join([*lines, *_table(found)])


OBSERVED_HEAD = ("metric", "now", "before, or limit", "requests", "evidence that it is degraded")


def observed_rows(found: Observed) -> list[tuple[str, ...]]:
    """One row a comparison."""
    return [(row[0], row[1], row[2], row[3], row[5]) for row in finding_rows(found.findings)]


def _table(found: Observed) -> list[str]:
    rows = ["| " + " | ".join(row) + " |" for row in observed_rows(found)]
    return ["", "| " + " | ".join(OBSERVED_HEAD) + " |", "|" + "---|" * len(OBSERVED_HEAD), *rows] if rows else []
