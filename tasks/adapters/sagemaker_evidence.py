"""What both versions of a release have answered, and how an endpoint does: the judge's and the observer's evidence."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.adapters.aws_connection import Connection
from tasks.adapters.captures import Captures
from tasks.adapters.sagemaker_metrics import Look, bounds, look, requests_of
from tasks.adapters.sagemaker_names import CHALLENGER, VARIANT
from tasks.adapters.sagemaker_observe import Serving, fleet_totals
from tasks.adapters.sagemaker_requests import dimensions
from tasks.adapters.sagemaker_window import read_windows, span
from tasks.contracts import Shift
from tasks.monitoring_contracts import Windows
from tasks.monitoring_plan import ObserveRules
from tasks.plans import ReleasePlan


class Evidence:
    """Read from CloudWatch, and of a shadow's answers from ``bucket``."""

    def __init__(self, aws: Connection, bucket: str) -> None:
        self._aws, self._bucket = aws, bucket

    def look(self, asked: Shift, plan: ReleasePlan, near_ms: float | None = None) -> Look:
        """What both versions have answered since the new one first had traffic.

        ``near_ms``: where the old version's judged latency was last seen. It is measured finely there, and the new
        version's there and where the plan's ratios would be reached.
        """
        endpoint, near = asked.endpoint, [near_ms] if near_ms else []
        # What is only just harmless mostly lies within the fine bounds around ``near_ms``.
        ratios = {plan.judge.latency_ratio, *(each for each in [plan.judge.harmless_ratio] if each > 1.2)}
        limits = bounds(plan.max_latency_ms, *near, *(each * ratio for each in near for ratio in ratios))
        if asked.trial_config:
            mine, base = dimensions(endpoint, None, CHALLENGER), dimensions(endpoint, None, VARIANT)
        else:
            beside = plan.mode != "ALL_AT_ONCE" and asked.previous_config not in (None, asked.wanted_config)
            mine = dimensions(endpoint, asked.wanted_config)
            base = dimensions(endpoint, asked.previous_config) if beside else []
        base_limits, queued = bounds(plan.max_latency_ms, *near), plan.inference == "ASYNC"
        return look(self._aws, mine, base or None, asked.since, self._aws.now(), limits, base_limits, queued)

    def client_errors(self, asked: Shift, plan: ReleasePlan, config: str, before: float) -> tuple[int, int]:
        """(4xx answers, requests) of one config in the ``before`` seconds until the release began."""
        began, queued = asked.since, plan.inference == "ASYNC"
        invalid, requests = fleet_totals(
            self._aws, asked.endpoint, config, began - before, began,
            ("Invocation4XXErrors", "Sum"), requests_of(queued),
        )  # fmt: skip
        return invalid, requests

    def captures(self, asked: Shift) -> Captures:
        """Both versions' answers of a trial with a shadow variant."""
        since = datetime.fromtimestamp(asked.since, UTC)
        return Captures(self._aws, self._bucket, asked.endpoint, f"{since:%Y-%m-%dT%H:%M:%SZ}")

    def windows(self, serving: Serving, rules: ObserveRules, limit_ms: float | None) -> Windows:
        """The newest window of an endpoint's metrics, and the one before it. ``limit_ms``: where counts are exact."""
        when = span(self._aws.now(), 60 * rules.window_minutes)
        quantile, ratio = rules.latency_quantile, rules.latency_ratio
        endpoint, variant = serving.endpoint, serving.variants[0]
        return read_windows(self._aws, endpoint, variant, serving.config, when, quantile, limit_ms, ratio)
