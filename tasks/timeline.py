"""The rollout as a picture: traffic, errors and latency of both fleets over the service's time, with the verdict.

Drawn with matplotlib on a figure of its own (no pyplot: no display, no state of the process), handed on as SVG text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tasks.contracts import FleetShare, Observation, Rollout
from tasks.findings import last_word

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OLD, NEW = "#6b7280", "#2563eb"  # grey and blue: told apart by everybody, also in print
GOOD, BAD = "#15803d", "#b91c1c"
_VERDICTS = {
    "created": ("CREATED: the endpoint serves this version", GOOD),
    "promoted": ("PROMOTED: the new version serves all traffic", GOOD),
    "restored": ("RESTORED: the old version serves all traffic again", BAD),
    "unchanged": ("UNCHANGED: it served this version already", OLD),
}

Of = Callable[[Observation], FleetShare | None]


def draw_timeline(rollout: Rollout) -> str:
    """The SVG of ``rollout``; it needs at least one observation.

    Raises:
        ValueError: nothing was observed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    seen = rollout.observations
    if not seen:
        raise ValueError("a rollout without observations has no timeline")
    # Text stays text, so that the file is small and searchable; the salt makes the same rollout the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "slimline", "font.size": 9, "axes.titlesize": 10}):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        traffic, errors, latency = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        figure.suptitle(_title(rollout), x=0.01, ha="left", fontsize=9)
        _draw_traffic(traffic, rollout)
        _draw_errors(errors, seen)
        _draw_latency(latency, seen)
        latency.set_xlabel("Seconds since the rollout began, by the service's clock" + _clock(rollout))
        for axes in (traffic, errors, latency):
            _finish(axes, seen)
        _mark_end(traffic, rollout)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "Slimline"})
    return text.getvalue()


def _title(rollout: Rollout) -> str:
    registered = rollout.registered
    lines = [f"{rollout.mode} release of {registered.name} version {registered.version} on endpoint {rollout.endpoint}"]
    lines.append(f"old: {rollout.previous_config or 'nothing'}   new: {rollout.asked_config}")
    lines += [last_word(rollout)[:135]] if rollout.reason else []
    return "\n".join([*lines, rollout.rehearsal] if rollout.rehearsal else lines)


def _clock(rollout: Rollout) -> str:
    return "  (rehearsal)" if rollout.rehearsal else ""


def _old(look: Observation) -> FleetShare | None:
    return look.blue


def _new(look: Observation) -> FleetShare | None:
    return look.green


def _draw_traffic(axes: Axes, rollout: Rollout) -> None:
    seen = rollout.observations
    times = [look.at for look in seen]
    for fleet, name, colour in ((_old, "old version", OLD), (_new, "new version", NEW)):
        shares = [100 * (found.weight if (found := fleet(look)) else 0.0) for look in seen]
        axes.step(times, shares, where="post", color=colour, label=name, linewidth=2)
        axes.fill_between(times, shares, step="post", color=colour, alpha=0.12)
    axes.set_ylim(-3, 118)
    axes.set_yticks((0, 25, 50, 75, 100))
    axes.set_ylabel("Share of traffic, %")
    for at, status in _phases(seen):
        axes.axvline(at, color="#9ca3af", linewidth=0.6, linestyle=":")
        axes.annotate(
            status, (at, 1), xycoords=("data", "axes fraction"), xytext=(3, -4), textcoords="offset points",
            va="top", fontsize=7, color="#4b5563",
        )  # fmt: skip


def _phases(seen: Sequence[Observation]) -> list[tuple[float, str]]:
    """When the status changed, and to what: ``Updating/Baking`` is Baking. One too close to the last is left out."""
    found: list[tuple[float, str]] = []
    apart = 0.12 * (seen[-1].at - seen[0].at)
    last = ""
    for look in seen:
        status = look.status.rpartition("/")[2]
        if status != last and (not found or look.at - found[-1][0] >= apart):
            found.append((look.at, status))
        last = status
    return found


def _draw_errors(axes: Axes, seen: Sequence[Observation]) -> None:
    """The share of 5xx answers between one look and the next: counts are totals since the rollout began."""
    most = 5.0
    for fleet, name, colour in ((_old, "old version", OLD), (_new, "new version", NEW)):
        points = _error_shares(seen, fleet)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1.2, label=name)
            most = max(most, *(share for _, share in points))
    axes.set_ylim(-0.04 * most, 1.15 * most)
    axes.set_ylabel("5xx answers, %")
    fired = next(((look.at, alarm) for look in seen for alarm in _fired(look)), None)
    if fired is not None:
        at, alarm = fired
        axes.axvline(at, color=BAD, linewidth=1)
        axes.annotate(
            f"alarm: {alarm}", (at, 0.9), xycoords=("data", "axes fraction"), xytext=_beside(at, seen),
            textcoords="offset points", color=BAD, fontsize=8, va="top", ha=_side(at, seen),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


def _error_shares(seen: Sequence[Observation], fleet: Of) -> list[tuple[float, float]]:
    points = []
    for before, after in pairwise(seen):
        was, now = fleet(before), fleet(after)
        if was and now and now.requests > was.requests:
            points.append((after.at, 100 * (now.errors - was.errors) / (now.requests - was.requests)))
    return points


def _fired(look: Observation) -> list[str]:
    return sorted(name.rpartition("-")[2] for name, state in look.alarms.items() if state == "ALARM")


def _draw_latency(axes: Axes, seen: Sequence[Observation]) -> None:
    """Of the newest minute at each look; where that is not known, the quantile that the judge compares."""
    series: tuple[tuple[str, str, Callable[[FleetShare], float | None]], ...] = (
        ("average", "-", lambda fleet: fleet.recent_ms),
        ("p90", "--", lambda fleet: fleet.recent_p90_ms),
        ("judged quantile", ":", lambda fleet: fleet.latency_ms),
    )
    known = any(fleet.recent_ms is not None for look in seen for fleet in (look.blue, look.green) if fleet)
    for fleet, name, colour in ((_old, "old version", OLD), (_new, "new version", NEW)):
        for what, line, value in series[:2] if known else series[2:]:
            points = [(look.at, at) for look in seen if (f := fleet(look)) and (at := value(f)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, label=f"{name}, {what}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Model latency, ms")


def _mark_end(axes: Axes, rollout: Rollout) -> None:
    text, colour = _VERDICTS[rollout.phase]
    last = rollout.observations[-1]
    counts = f"{last.green.requests} requests, {last.green.errors} of them 5xx" if last.green else "no new fleet"
    axes.set_title(f"{text}; the new version answered {counts}", loc="left", color=colour, fontweight="bold")
    axes.axvline(last.at, color=colour, linewidth=1.5)


def _finish(axes: Axes, seen: Sequence[Observation]) -> None:
    axes.set_xlim(0, max(seen[-1].at * 1.01, 1))
    axes.grid(True, color="#e5e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _side(at: float, seen: Sequence[Observation]) -> str:
    return "left" if at < (seen[0].at + seen[-1].at) / 2 else "right"


def _beside(at: float, seen: Sequence[Observation]) -> tuple[float, float]:
    return (4.0, 0.0) if _side(at, seen) == "left" else (-4.0, 0.0)
