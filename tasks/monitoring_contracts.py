"""What the tasks that guard and observe an endpoint hand to one another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.contracts import Answers, Finding, Value
from tasks.monitoring_plan import Act

State = Literal["healthy", "degraded", "no data"]


class Guarded(Value):
    """What stands guard over an endpoint."""

    endpoint: str
    alarms: tuple[str, ...] = Field(description="Names of the standing alarms")
    dashboard: str | None = Field(description="Name of the CloudWatch dashboard; none where the plan wants none")
    capture_percent: int = Field(description="Share of the requests that are kept in S3, %")
    notes: tuple[str, ...] = Field(default=(), description="What was asked for and could not be made")


class Promise(Value):
    """What the scorecard said of the served version when it was registered."""

    latency_ms: float | None = Field(
        description="Milliseconds for an answer of so many tokens as the rules say: time to first token and the rest "
        "at its rate, medians on the machine of the scorecard; none where nothing of it fits what is served"
    )
    note: str = Field(description="Where that comes from, or why there is none")
    run_id: str = Field(default="", description="The version's MLflow run; empty where there is none")


class Point(Value):
    """One period of an endpoint's metrics."""

    at: float = Field(description="When it begins, by the service's clock, seconds since 1970")
    requests: int
    errors: int = Field(description="5xx, and requests that the model did not answer at all")
    median_ms: float | None = Field(description="ModelLatency; none without requests")
    tail_ms: float | None = Field(description="The quantile that the rules name")


class Load(Value):
    """How busy the instances were in the window. Percent as CloudWatch counts them: up to 100 a core, or a GPU."""

    metric: str
    average: float
    highest: float


class Windows(Value):
    """What CloudWatch has of an endpoint: ``current`` from ``middle`` to ``until``, ``before`` from ``since`` on.

    Times are the service's clock, seconds since 1970.
    """

    since: float
    middle: float
    until: float
    period: int = Field(description="Seconds that a point covers")
    current: Answers = Field(description="Of the config that serves, where CloudWatch tells fleets apart")
    before: Answers = Field(description="Of whatever served then")
    points: tuple[Point, ...]
    loads: tuple[Load, ...]


class Observed(Value):
    """One observation of an endpoint: what was seen, the verdict, and what it sets off."""

    endpoint: str
    config: str
    version: str = Field(description="Name and number in the registry; empty where the endpoint's config names none")
    state: State
    reason: str = Field(description="The verdict in a sentence or two")
    causes: tuple[str, ...] = Field(default=(), description="What is degraded: errors, latency, alarm p90, …")
    act: Act = Field(description="What the event asks for; report where nothing is to move")
    findings: tuple[Finding, ...] = Field(default=(), description="One a comparison; restore 1 is proven degraded")
    windows: Windows
    latency_quantile: float
    promise: Promise
    alarms: dict[str, str] = Field(description="State of each standing alarm, by what it watches")
    rehearsal: str = ""
