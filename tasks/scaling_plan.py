"""How an endpoint's instance count follows its load, and which kind of inference it is: groups of the release's form.

What AWS allows beyond single fields is checked in ``adapters.scaling_requests`` and ``adapters.inference_kinds``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.recipes import Choice

Inference = Literal["REAL_TIME", "ASYNC", "SERVERLESS"]


class ScalingStep(Choice):
    """One row of a step table."""

    above: float = Field(0.0, ge=0, description="Metric less target from which on the row counts; the first is 0")
    add: int = Field(1, ge=1, le=100, description="Instances to add")


class ScheduledBounds(Choice):
    """Bounds that a schedule sets."""

    schedule: str = Field(
        description="cron(minutes hours day-of-month month day-of-week year), rate(5 minutes), at(2027-01-31T08:00:00)"
    )
    min_instances: int = Field(1, ge=0, le=1000, description="Instances from then on, at least")
    max_instances: int = Field(4, ge=1, le=1000, description="Instances from then on, at most")
    timezone: str = Field("Etc/UTC", description="IANA name of the time zone that the schedule is in")


class Scaling(Choice):
    """Application Auto Scaling of the endpoint, put there when the release has ended, promoted or restored."""

    kind: Literal["none", "off", "target_tracking", "step", "simple", "scheduled"] = Field(
        "none",
        description="none: leave what there is. off: remove it. target_tracking: AWS keeps the metric at the target. "
        "step: the step table above the target, one instance fewer below scale_in_below. simple: the table's first row "
        "alone, for SageMaker has no simple policies. scheduled: the schedule alone",
    )
    metric: Literal["auto", "invocations", "concurrency", "backlog", "utilization"] = Field(
        "auto",
        description="invocations: requests a minute and instance. concurrency: requests under way at an instance, "
        "every 10 s. backlog: waiting requests an instance, of ASYNC. utilization: of a SERVERLESS endpoint's "
        "provisioned concurrency, 0-1. auto: invocations, backlog or utilization, by plan.inference",
    )
    target: float = Field(60.0, gt=0, description="Value of the metric to keep to; of steps the alarm's threshold")
    scale_in_below: float = Field(
        0.0, ge=0, description="step, simple: one instance fewer below this value of the metric; 0 never"
    )
    min_instances: int = Field(
        1, ge=0, le=1000, description="At least so many (SERVERLESS: provisioned concurrency). 0 with ASYNC only"
    )
    max_instances: int = Field(4, ge=1, le=1000, description="At most so many (SERVERLESS: provisioned concurrency)")
    scale_out_cooldown: int = Field(300, ge=0, le=86_400, description="Seconds for a scale-out to take effect")
    scale_in_cooldown: int = Field(300, ge=0, le=86_400, description="Seconds between two scale-ins")
    steps: tuple[ScalingStep, ...] = Field(
        (ScalingStep(),), description="step: how many instances to add, by how far the metric is above the target"
    )
    schedule: tuple[ScheduledBounds, ...] = Field(
        (), description="Other bounds at certain times; with every kind but none and off"
    )

    @property
    def acts(self) -> bool:
        """Whether anything is to be registered."""
        return self.kind not in ("none", "off")


class AsyncInference(Choice):
    """ASYNC endpoints: requests wait in a queue, answers are objects in S3."""

    output: str = Field(
        "", max_length=400, description="S3 prefix of the answers; empty: async/ENDPOINT/ in the bucket of the models"
    )
    max_concurrent: int = Field(
        0, ge=0, le=1000, description="Requests that an instance gets at a time; 0: SageMaker chooses"
    )
    success_topic: str = Field("", description="ARN of the SNS topic that is told of answers; empty: none")
    error_topic: str = Field("", description="ARN of the SNS topic that is told of failures; empty: none")


class Serverless(Choice):
    """SERVERLESS endpoints: no instances; memory for a request, and how many at a time."""

    memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] = Field(4096, description="Memory of one request, MB")
    max_concurrency: int = Field(5, ge=1, le=200, description="Requests at a time, at most")
    provisioned: int = Field(
        0, ge=0, le=200, description="Of those, how many are kept warm; 0: none, and the first request waits"
    )
