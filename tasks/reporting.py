"""Results as pages: tables, a Markdown verdict and links on the run page. Always run, never cached, so a cached
stage is on its page too.
"""

from __future__ import annotations

from textwrap import fill

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from tasks.contracts import (
    Compressed,
    Exported,
    FleetShare,
    GateCheck,
    Observation,
    RegisteredModel,
    Rollout,
    Scorecard,
    Settled,
    Tracked,
)
from tasks.evidence_tables import evidence_tables, fenced, gate_table
from tasks.figures import HEAD, cost_notes, figures, megabytes, release_cost_lines
from tasks.findings import findings_table, judged_cell, last_word
from tasks.reader_contracts import ReaderScorecard
from tasks.runpages import on_top, picture_on_top
from tasks.training_text import sentences

ROLLOUT_STEPS = "rollout-steps"  # the artifact that `slimline status` reads again


def report_stage(step: Compressed) -> None:
    """A table with one row a layer, or one a step for distillation."""
    if step.layers:
        rows: list[dict[str, object]] = [
            {
                "layer": layer.layer,
                "size": f"{layer.rows} × {layer.columns}",
                "zeros": f"{layer.sparsity:.1%}",
                "bits": f"{layer.bits:g}",
                "output error": "–" if layer.error is None else f"{layer.error:.2e}",
                "seconds": f"{layer.seconds:.2f}",
                "fallback": layer.fallback or "",
            }
            for layer in step.layers
        ]
    else:
        rows = [{"step": number, "loss": f"{loss:.4f}"} for number, loss in enumerate(step.losses, start=1)]
        rows = rows or [{"parameters": f"{step.model.parameters:,}"}]  # blocks were dropped: nothing was learnt
    model = step.model
    create_table_artifact(
        rows,
        key=f"{step.stage}-layers" if step.layers else f"{step.stage}-losses",
        description=f"**{step.stage}** → {megabytes(model.bytes)}, {model.sparsity:.0%} zeros, {model.bits:g} bits; "
        f"{step.tokens:,} tokens in {step.seconds:.0f} s, peak memory {megabytes(step.peak_bytes)}"
        + (f"; by {step.engine}: {_versions(step)}" if step.versions else "")
        + (f"; **{len(step.fallbacks)} numerical fallbacks**" if step.fallbacks else "")
        + "".join(f"; **{retry}**" for retry in step.retries),
    )


def report_data(card: str) -> None:
    """The data card."""
    create_markdown_artifact(card, key="data-card", description="What the model is calibrated, taught and measured on")


def report_export(exported: Exported) -> None:
    """What was exported, or why nothing was."""
    create_markdown_artifact(export_markdown(exported), key="export", description="What a CPU container serves")


def export_markdown(exported: Exported) -> str:
    if exported.model is None:
        return f"# Served with torch\n\nNot exported: {exported.reason}"
    model = exported.model
    return "\n".join(
        [
            f"# Exported: {megabytes(model.bytes)}",
            f"{model.name}, {model.sparsity:.0%} zeros, {model.bits:g} bits; written in {exported.seconds:.0f} s, peak "
            f"memory {megabytes(exported.peak_bytes)}.",
            "",
            f"- digest `{model.digest}`",
            f"- made from `{exported.source}`",
            *(f"- {name}: {value}" for name, value in exported.choices.items()),
        ]
    )


def _versions(step: Compressed) -> str:
    return ", ".join(f"{name} {version}" for name, version in step.versions.items())


def report_verdict(scorecard: Scorecard, tracked: Tracked) -> None:
    """The scorecard and the gate's verdict as Markdown, and a link to the MLflow run."""
    on_top(
        "verdict",
        f"{verdict_markdown(scorecard)}\n\n{_run_link(tracked)}",
        f"Gate {scorecard.verdict.upper()}: does it still answer like the original?",
    )
    _report_run(tracked)


def report_gain(page: str, check: GateCheck, tracked: Tracked) -> None:
    """As ``report_verdict``, of a training that gained too little for anything to follow."""
    on_top(
        "verdict",
        f"{page}\n\n{_run_link(tracked)}",
        f"Gate {check.said.upper()}: did the training make it better?",
    )
    _report_run(tracked)


def report_reader(scorecard: ReaderScorecard, tracked: Tracked) -> None:
    """As ``report_verdict``, of a reader."""
    on_top("verdict", f"{reader_markdown(scorecard)}\n{_run_link(tracked)}", "Does it still answer like its teacher?")
    _report_run(tracked)


def reader_markdown(scorecard: ReaderScorecard) -> str:
    """As ``verdict_markdown``, of a reader."""
    return f"# Gate: {'PASSED' if scorecard.passed else 'FAILED'}\n{scorecard.markdown()}"


def _run_link(tracked: Tracked) -> str:
    return f"[MLflow run]({tracked.url}): every layer, every item, the model's lineage"


def _report_run(tracked: Tracked) -> None:
    create_link_artifact(
        tracked.url, "MLflow run", key="mlflow-run", description="Metrics, layers and lineage in MLflow"
    )


def verdict_markdown(scorecard: Scorecard) -> str:
    """The verdict as it stands on the Prefect page."""
    verdict = scorecard.verdict.upper()
    lines = [
        f"# Gate: {verdict}",
        f"{scorecard.served_model.name} against {scorecard.baseline_model.name}, {scorecard.candidate.tokens:,} "
        "held-out positions, both measured from their reloaded folders by what serves them.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---|---|---|",
        *("| " + " | ".join(figure.cells) + " |" for figure in figures(scorecard)),
        "",
        *gate_table(scorecard.checks).markdown(),
    ]
    lines += sentences(scorecard)
    for table in evidence_tables(scorecard):
        lines += ["", *table.markdown()]
    lines += ["", *cost_notes(scorecard.costs)] if scorecard.costs else []
    if scorecard.sample:
        lines += ["", "## What the compressed model writes", "", *fenced(_wrapped(scorecard.sample))]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    """A fence does not wrap by itself."""
    return "\n".join(fill(line, 96) for line in text.splitlines())


def report_registered(registered: RegisteredModel) -> None:
    create_link_artifact(
        registered.url,
        f"{registered.name} version {registered.version}",
        key="registered-version",
        description=f"In MLflow's registry, {f'alias {registered.alias}' if registered.alias else 'without an alias'}",
    )


def report_release(rollout: Rollout, endpoint_page: str | None, timeline: str | None) -> None:
    """The rollout's timeline (SVG), every step as a table, its end as Markdown, and a link to the
    endpoint's page where there is one.
    """
    if timeline is not None:
        told = f"Traffic, errors and latency of both fleets on **{rollout.endpoint}**: {rollout.phase}"
        picture_on_top("rollout-timeline", timeline, f"{rollout.endpoint}: {rollout.phase}", told, rollout.rehearsal)
    create_table_artifact(
        rollout_rows(rollout), key=ROLLOUT_STEPS, description=f"Traffic on **{rollout.endpoint}**, step by step"
    )
    on_top("release", release_markdown(rollout), f"How the release ended: {rollout.phase}")
    _link_endpoint(rollout.endpoint, endpoint_page)


def report_restore(settled: Settled, endpoint_page: str | None) -> None:
    """What the endpoint serves, and why, as Markdown."""
    on_top("restore", restore_markdown(settled), f"What {settled.endpoint} serves")
    _link_endpoint(settled.endpoint, endpoint_page)


def _link_endpoint(endpoint: str, page: str | None) -> None:
    if page:
        create_link_artifact(page, f"Endpoint {endpoint}", key="endpoint", description="Fleets, weights, alarms")


def rollout_rows(rollout: Rollout) -> list[dict[str, object]]:
    """One row for each step that was seen, with the counts at its end. Seconds are the endpoint service's."""
    rows: list[dict[str, object]] = []
    for seen in rollout.observations:
        step: dict[str, object] = {
            "step": seen.status,
            "old : new": _shares(seen),
            "alarms": _alarms(seen.alarms),
        }
        if rows and all(rows[-1][name] == step[name] for name in step):
            rows.pop()  # the same step: keep its latest counts
        judge = {"judge": judged_cell(seen)} if any(each.findings for each in rollout.observations) else {}
        counts = {"old served": _count(seen.blue), "new served": _count(seen.green)}
        rows.append({"s": f"{seen.at:.0f}", **step, **counts, **judge})
    return rows


def _shares(seen: Observation) -> str:
    """While instances are being switched the service does not say how much each fleet gets; then neither do we."""
    if seen.status.endswith(("/Deleting", "/ActivatingTraffic")):
        return "moving"
    return f"{_share(seen.blue)} : {_share(seen.green)}"


def _share(fleet: FleetShare | None) -> str:
    return f"{fleet.weight:.0%}" if fleet else "–"


def _count(fleet: FleetShare | None) -> str:
    if fleet is None:
        return "–"
    return f"{fleet.requests}, {fleet.errors} failed" if fleet.errors else f"{fleet.requests}"


def _alarms(states: dict[str, str]) -> str:
    """Only what is not OK is worth a reader's time."""
    fired = [name.rsplit("-", 1)[-1] for name, state in sorted(states.items()) if state == "ALARM"]
    if fired:
        return f"ALARM: {', '.join(fired)}"
    # The judge's own alarm has no data unless the judge sets it.
    measured = [state for name, state in states.items() if not name.endswith("-judge")]
    return "no data yet" if "INSUFFICIENT_DATA" in measured else "ok" if measured else "–"


def release_markdown(rollout: Rollout) -> str:
    ends = {
        "created": "The endpoint was created with this version.",
        "promoted": "The new version serves all traffic.",
        "restored": "The new version was taken back. The previous one serves all traffic.",
        "unchanged": "The endpoint served this version already; nothing was moved.",
    }
    registered = rollout.registered
    lines = [
        f"# Release: {rollout.phase}",
        ends[rollout.phase],
        "",
        *([f"- {word}"] if (word := last_word(rollout)) else []),
        *([f"- a person said: {rollout.approval.reason}"] if rollout.approval else []),
        f"- endpoint `{rollout.endpoint}` serves `{rollout.config}` (before: `{rollout.previous_config or 'nothing'}`)",
        f"- version: {registered.name} {registered.version}",
        f"- a real inference answered: {rollout.probe!r}",
    ]
    if rollout.scaling:
        lines.append(f"- autoscaling: {rollout.scaling}")
    lines += [f"- {line}" for line in release_cost_lines(rollout.cost)] if rollout.cost else []
    if rollout.rehearsal:
        lines.append(f"- {rollout.rehearsal}")
    judged = next((seen.findings for seen in reversed(rollout.observations) if seen.findings), ())
    return "\n".join([*lines, *findings_table(judged)] if judged else lines)


def restore_markdown(settled: Settled) -> str:
    answered = "answered" if settled.answered else "failed"
    lines = [
        f"# {settled.endpoint}: {settled.action}",
        settled.reason[:1].upper() + settled.reason[1:] + ".",
        "",
        f"- serves `{settled.config}`, version {settled.version}" if settled.config else "- serves nothing",
        *([f"- chosen over `{settled.other_config}`"] if settled.other_config else []),
        *([f"- a real inference {answered}: {settled.probe!r}"] if settled.probe else []),
        *(f"- removed: {resource}" for resource in settled.swept),
    ]
    return "\n".join([*lines, f"- {settled.rehearsal}"] if settled.rehearsal else lines)
