"""How a run ended, where a person looks first: one line in its log, and a page on the run above a subflow."""

from __future__ import annotations

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.contracts import RegisteredModel, Rollout, Scorecard, Tracked
from tasks.findings import last_word
from tasks.reader_contracts import ReaderScorecard
from tasks.reporting import reader_markdown, release_markdown, verdict_markdown
from tasks.require import said
from tasks.runpages import tell_parent


def tell_verdict(scorecard: Scorecard | ReaderScorecard, tracked: Tracked) -> None:
    """The gate's verdict with its figures."""
    checks = "; ".join(f"{check.metric} {said(check)}, {check.sense} {check.limit:g}" for check in scorecard.checks)
    get_run_logger().info("Gate %s: %s. MLflow run: %s", _word(scorecard), checks, tracked.url)
    page = reader_markdown(scorecard) if isinstance(scorecard, ReaderScorecard) else verdict_markdown(scorecard)
    tell_parent(
        "outcome-gate",
        f"{page}\n\n{_links(tracked)}",
        f"Gate {_word(scorecard)}: does it still answer like the original?",
    )


def tell_version(registered: RegisteredModel) -> None:
    alias = f"alias {registered.alias}" if registered.alias else "without an alias"
    get_run_logger().info("%s version %s, %s: %s", registered.name, registered.version, alias, registered.url)


def tell_release(rollout: Rollout, endpoint_page: str | None) -> None:
    """What the endpoint serves now, and why."""
    why = last_word(rollout)
    get_run_logger().info(
        "Release %s: %s serves %s%s", rollout.phase, rollout.endpoint, rollout.config, f"; {why}" if why else ""
    )
    links = [f"[Release run]({flow_run.ui_url})"]
    links += [f"[Endpoint {rollout.endpoint}]({endpoint_page})"] if endpoint_page else []
    registered = rollout.registered
    links += [f"[{registered.name} version {registered.version}]({registered.url})"] if registered.url else []
    tell_parent(
        "outcome-release",
        f"{release_markdown(rollout)}\n\n{' · '.join(links)}",
        f"How the release ended: {rollout.phase}",
    )


def _word(scorecard: Scorecard | ReaderScorecard) -> str:
    if isinstance(scorecard, ReaderScorecard):
        return "PASSED" if scorecard.passed else "FAILED"
    return scorecard.verdict.upper()


def _links(tracked: Tracked) -> str:
    return f"[MLflow run]({tracked.url}) · [Compress run]({flow_run.ui_url}): every stage, its tables, the report"
