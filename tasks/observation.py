"""The verdict of an observation: healthy, degraded, or no data. A pure judgement: no calls, no clock.

Degraded is what is proven: each comparison is a rule of the judge (``serving.judge``), so that an observation which is
within every limit is called degraded with probability at most ``alpha``. Requests are taken as independent of one
another. Healthy is no default: there must be enough requests, a latency to compare with, and nothing beyond a limit,
proven or not. Everything else is no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks.adapters.sagemaker_alarms import OF_THE_VERSION
from tasks.contracts import Answers, Finding
from tasks.monitoring_contracts import Promise, State, Windows
from tasks.monitoring_plan import Act, ObserveRules
from tasks.serving.evidence import Histogram
from tasks.serving.judge import Counts, Data, QuantileRule, Rule, ShareRule, judge
from tasks.verdicts import findings as kept

ERRORS, ERROR_LIMIT = "errors", "errors, of all requests"
LATENCY, PROMISED = "latency", "slower than the scorecard allows"
OVERHEAD_MS = 50.0  # of ModelLatency, beside the model: the way to the container, and waiting for one's turn
_FAILED = ("Failed", "OutOfService", "UpdateRollbackFailed")


@dataclass(frozen=True)
class Verdict:
    """As in ``Observed``."""

    state: State
    reason: str
    causes: tuple[str, ...]
    findings: tuple[Finding, ...]


def allowed_ms(promise: Promise, rules: ObserveRules) -> float | None:
    """The median latency up to which the scorecard's promise counts as kept; none where there is none, or it does not
    decide.
    """
    if promise.latency_ms is None or not rules.scorecard_ratio:
        return None
    return rules.scorecard_ratio * promise.latency_ms + OVERHEAD_MS


def decide(windows: Windows, promise: Promise, alarms: Mapping[str, str], status: str, rules: ObserveRules) -> Verdict:
    """What is to be said of an endpoint.

    Args:
        alarms: State of each standing alarm by what it watches.
        status: EndpointStatus.
    """
    if status in _FAILED:
        return Verdict("degraded", f"The endpoint is {status}.", (f"endpoint {status}",), ())
    fired = [kind for kind, state in alarms.items() if state == "ALARM" and kind in OF_THE_VERSION]
    busy = [kind for kind, state in alarms.items() if state == "ALARM" and kind not in OF_THE_VERSION]
    limit = allowed_ms(promise, rules)
    enough = windows.current.requests >= rules.min_requests
    compared = enough and windows.before.requests >= rules.min_requests
    judged = judge(
        tuple(_rules(rules, compared, limit)),
        _data(windows.current, limit) if enough else {},
        _data(windows.before, None) if compared else {},
        alpha=rules.alpha,
    )
    found = kept(judged)
    proven = [finding for finding in found if finding.restore >= 1]
    said = [_words(finding, rules) for finding in proven] + [f"The alarm on {kind} is in ALARM." for kind in fired]
    also = [f"Beside that, the alarm on {kind} is in ALARM: a matter of load, not of the version." for kind in busy]
    if said:
        causes = (*(finding.metric for finding in proven), *(f"alarm {kind}" for kind in fired))
        return Verdict("degraded", " ".join([*said, *also]), causes, found)
    missing = list(_missing(windows, rules, limit, found))
    state: State = "no data" if missing else "healthy"
    fine = f"Errors and latency of {windows.current.requests} requests are within every limit."
    return Verdict(state, " ".join([*(missing or [fine]), *also]), (), found)


def wanted_act(verdict: Verdict, rules: ObserveRules, under_way: str) -> tuple[Act, str]:
    """What the event asks for, and why it is less than the rules say. ``under_way``: a release or restore, or empty."""
    if verdict.state != "degraded" or rules.act == "report":
        return "report", ""
    if under_way:
        return "report", f"Nothing is set off: {under_way} is under way, and has a judge of its own."
    return rules.act, ""


def _rules(rules: ObserveRules, compared: bool, limit: float | None) -> Iterator[Rule]:
    yield ShareRule(ERROR_LIMIT, "above", 0.0, 0.0, limit=rules.max_error_rate)
    if compared:
        yield ShareRule(ERRORS, "above", rules.error_points, rules.error_points)
        yield QuantileRule(LATENCY, rules.latency_quantile, rules.latency_ratio, rules.latency_ratio)
    if limit is not None:  # that the median is above it and that more than half are slower are the same
        yield ShareRule(PROMISED, "above", 0.0, 0.0, limit=0.5)


def _data(answers: Answers, limit: float | None) -> dict[str, Data]:
    errors = Counts(answers.errors, answers.requests)
    bounds, counts = np.asarray(answers.bounds, float), np.asarray(answers.at_or_below, float)
    found: dict[str, Data] = {ERRORS: errors, ERROR_LIMIT: errors, LATENCY: Histogram(bounds, counts, answers.timed)}
    if limit is not None:
        within = int(np.searchsorted(bounds, limit, side="right"))
        fast = float(counts[within - 1]) if within else 0.0
        found[PROMISED] = Counts(answers.timed - fast, answers.timed)
    return found


def _missing(windows: Windows, rules: ObserveRules, limit: float | None, found: tuple[Finding, ...]) -> Iterator[str]:
    """What keeps an observation from being good news."""
    current, before = windows.current, windows.before
    if current.requests < rules.min_requests:
        few = f"{current.requests} requests in {rules.window_minutes} minutes"
        yield f"{few}; fewer than {rules.min_requests} say nothing."
        return
    if before.requests < rules.min_requests and limit is None:
        yield (
            f"There is no latency to compare with: {before.requests} requests in the window before, and no scorecard "
            "that decides."
        )
    for finding in found:
        if _beyond(finding, rules):
            yield f"Not proven: {_words(finding, rules)}"


def _beyond(finding: Finding, rules: ObserveRules) -> bool:
    mine, base = finding.candidate, finding.baseline
    if mine is None or base is None:
        return False
    limits = {ERRORS: base + rules.error_points, LATENCY: base * rules.latency_ratio}
    return mine > limits.get(finding.metric, base)


def _words(finding: Finding, rules: ObserveRules) -> str:
    mine, base = finding.candidate, finding.baseline
    counts = f"{finding.requests} and {finding.baseline_requests} requests"
    if finding.metric == LATENCY:
        seen = "beyond what is measured" if mine is None else f"{mine:.0f} ms"
        ratio = f", {mine / base:.1f} times" if mine and base else ""
        was = "–" if base is None else f"{base:.0f} ms"
        return (
            f"The {100 * rules.latency_quantile:g}th percentile of ModelLatency is {seen}{ratio} the {was} of the "
            f"window before; {rules.latency_ratio:g} times is the limit ({counts})."
        )
    if finding.metric == ERRORS:
        return (
            f"{mine or 0:.1%} of the answers are 5xx, {base or 0:.1%} were before; {100 * rules.error_points:g} points "
            f"more is the limit ({counts})."
        )
    if finding.metric == ERROR_LIMIT:
        return f"{mine or 0:.1%} of {finding.requests} answers are 5xx; {base or 0:.1%} is the limit."
    return (
        f"{mine or 0:.0%} of {finding.requests} answers take longer than {rules.scorecard_ratio:g} times what the "
        f"scorecard promises for {rules.answer_tokens} tokens; half is the limit."
    )
