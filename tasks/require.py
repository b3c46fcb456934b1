"""Stop the line where what was made or measured is not good enough."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.contracts import Compressed, GateCheck, Scorecard
from tasks.errors import GateFailed, SlimlineError
from tasks.reader_contracts import ReaderScorecard
from tasks.training_text import FALL


def require_passed(scorecard: Scorecard | ReaderScorecard) -> None:
    """Stop here unless every check passed.

    Raises:
        GateFailed: names each metric outside its limit and what to try.
    """
    require_checks(scorecard.checks)


def require_checks(checks: Sequence[GateCheck]) -> None:
    """As ``require_passed``, of checks that are no whole scorecard's."""
    stopped = [check for check in checks if not check.passed]
    if not stopped and checks:
        return
    lacking, shown = _what_stopped([check.metric for check in stopped])
    causes = {
        "failed": f"{lacking}; it was not registered",
        "inconclusive": f"too few items to show that {shown}; it was not registered",
        "suspect": "the candidate is better than compression can make it; it was not registered",
    }
    verdicts = [check.said for check in stopped]
    worst = next((word for word in ("failed", "suspect", "inconclusive") if word in verdicts), "failed")
    raise GateFailed(
        causes[worst],
        observed="; ".join(f"{check.metric} {said(check)}" for check in stopped) or "no check was made",
        limit="; ".join(f"{check.metric} {check.sense} {check.limit:g}" for check in stopped) or "at least one check",
        remedy="; ".join(sorted({check.remedy for check in stopped})) or "apply the gate first",
    )


def _what_stopped(metrics: list[str]) -> tuple[str, str]:
    """What the candidate is not, and the same as what could not be shown, by the checks that did not pass."""
    if metrics and all(metric == FALL for metric in metrics):
        return "the training did not lower the perplexity as far as was asked", "the training lowered the perplexity"
    if metrics and all("the champion" in metric for metric in metrics):
        return "the candidate is worse than the champion", "the candidate is as good as the champion"
    return "the candidate does not answer like the original", "the candidate answers like the original"


def said(check: GateCheck) -> str:
    """The figure with its interval's end: 1.076 (95 % sure: at most 1.093). The end may be the other one than the limit
    is on: a gain is plausible as long as the perplexity may be higher.
    """
    text = f"{check.observed:.3f}"
    if check.bound is None or check.confidence is None or check.confidence <= 0.5:
        return text
    side = check.sense if check.bound == check.observed else "at most" if check.bound > check.observed else "at least"
    return f"{text} ({check.confidence:.0%} sure: {side} {check.bound:.3f})"


def require_sound(done: Compressed, max_share: float) -> None:
    """Stop here when too many layers of a stage needed a numerical fallback: its weights are then not what was asked.

    Raises:
        SlimlineError: names the share and the first layer's fallback.
    """
    share = len(done.fallbacks) / len(done.layers) if done.layers else 0.0
    if share > max_share:
        first = done.fallbacks[0]
        raise SlimlineError(
            f"{done.stage} needed numerical fallbacks in too many layers; nothing after it was run",
            observed=f"{share:.0%} of {len(done.layers)} layers; {first.layer}: {first.fallback}",
            limit=f"{max_share:.0%} of the layers (recipe.max_fallback_share)",
            remedy="use more calibration blocks or other text, or raise the stage's damping",
        )
