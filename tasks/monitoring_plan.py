"""What stands guard over an endpoint after a release, and how an observation of it decides: two groups of the form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.recipes import Choice

Act = Literal["report", "restore", "retrain"]


class MonitoringPlan(Choice):
    """Standing alarms and a dashboard of the endpoint, made when a version is promoted and kept by every later release;
    and sampled requests, kept as text to calibrate on.
    """

    alarms: bool = Field(
        True,
        description="Alarms on errors, latency and the instances' load. A limit of 0 below leaves that alarm out; "
        "false takes all of them away",
    )
    dashboard: bool = Field(True, description="A CloudWatch dashboard with the same metrics, limits and alarms")
    topic: str = Field(
        "",
        pattern=r"^(arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256})?$",
        description="ARN of the SNS topic that is told when an alarm begins and ends; empty: nobody is told",
    )
    minutes: int = Field(5, ge=1, le=60, description="Minutes that an alarm looks back")
    breaching: int = Field(3, ge=1, le=60, description="So many of those minutes over the limit are an alarm")
    min_requests: int = Field(
        10, ge=1, le=1_000_000, description="A minute with fewer requests counts as one without errors"
    )
    max_error_rate: float = Field(0.02, ge=0, lt=1, description="5xx answers ÷ requests of a minute; 0: no alarm")
    max_p90_ms: float = Field(
        10_000, ge=0, le=60_000, description="90th percentile of ModelLatency, milliseconds; 0: no alarm"
    )
    max_p99_ms: float = Field(
        30_000, ge=0, le=60_000, description="99th percentile of ModelLatency, milliseconds; 0: no alarm"
    )
    max_cpu_percent: float = Field(
        90, ge=0, le=100, description="CPUUtilization, % of all cores of an instance; 0: no alarm"
    )
    max_gpu_percent: float = Field(
        95, ge=0, le=100, description="GPUUtilization, % of all GPUs of an instance; 0: no alarm"
    )
    max_gpu_memory_percent: float = Field(
        95, ge=0, le=100, description="GPUMemoryUtilization, % of the memory of all its GPUs; 0: no alarm"
    )
    max_memory_percent: float = Field(
        90, ge=0, le=100, description="MemoryUtilization, % of an instance's memory; 0: no alarm"
    )
    max_disk_percent: float = Field(
        85, ge=0, le=100, description="DiskUtilization, % of an instance's disk; 0: no alarm"
    )
    capture_percent: int = Field(
        0,
        ge=0,
        le=100,
        description="Share of the requests, %, that are kept in S3 with their answers, to calibrate a later model on "
        "(data.source = capture://ENDPOINT). They are users' texts, so nothing is kept unless you say so",
    )


class ObserveRules(Choice):
    """What an observation compares, what counts as degraded, and what then happens."""

    window_minutes: int = Field(
        60, ge=5, le=1440, description="Minutes that are looked at, and as many before them to compare with"
    )
    min_requests: int = Field(
        100, ge=10, le=1_000_000, description="A window with fewer requests says nothing: the verdict is `no data`"
    )
    latency_quantile: float = Field(0.9, ge=0.1, le=0.999, description="Which quantile of ModelLatency is compared")
    latency_ratio: float = Field(
        1.5, ge=1.05, le=100, description="That quantile ÷ the one of the window before: more is degraded"
    )
    error_points: float = Field(
        0.02, gt=0, lt=1, description="Share of 5xx answers above that of the window before: more is degraded"
    )
    max_error_rate: float = Field(
        0.05, gt=0, lt=1, description="Share of 5xx answers, whatever it was before: more is degraded"
    )
    scorecard_ratio: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="Median ModelLatency ÷ what the scorecard of the served version promises for `answer_tokens`: more "
        "is degraded. Wide, for the endpoint's machine is another one than the scorecard's; 0: shown, does not decide",
    )
    answer_tokens: int = Field(
        20, ge=1, le=100_000, description="Tokens of an answer here, about; 20 is what the container gives unasked"
    )
    alpha: float = Field(
        0.01, gt=0, le=0.5, description="Chance that an observation calls degraded what is within every limit, at most"
    )
    act: Act = Field(
        "report",
        description="What a degraded endpoint sets off, through the event slimline.endpoint.degraded: report nothing "
        "more; restore the last good version; retrain: run the retraining of that endpoint",
    )
