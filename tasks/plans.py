"""How a person wants live traffic to move: the release's group in the form that Prefect draws.

What SageMaker allows beyond single fields is checked in ``adapters.sagemaker_limits`` before anything is made.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.forms import FOLDED
from tasks.monitoring_plan import MonitoringPlan
from tasks.recipes import Choice
from tasks.scaling_plan import AsyncInference, Inference, Scaling, Serverless
from tasks.targets import Target


class Rehearsal(Choice):
    """Only on the embedded stack: traffic to judge by, and faults to see the release restored. Refused on AWS."""

    requests_per_second: float = Field(
        2.0, ge=0, le=50, description="Real prompts sent while the rollout runs; 0 sends none"
    )
    error_share: float = Field(0.0, ge=0, le=1, description="Share of the new version's answers that fail with a 500")


EndpointName = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,40}$",
        description="SageMaker's name of the endpoint: letters and digits, dashes between them",
    ),
]


class JudgeRules(Choice):
    """What the judge compares, and how sure it must be. Worse by more than is harmless, and sure of it: the old version
    comes back. Within every margin, and sure of it: the new one may be promoted. It may look as often as it likes.
    """

    promote: bool = Field(
        True,
        description="Promotion needs the judge's evidence: hundreds of requests to each version. Without, it can only "
        "take the new version back, and alarms and min_requests promote. WEIGHTS, AB_TEST and SHADOW always need it",
    )
    alpha: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Chance of taking back a version that is nowhere worse than is harmless, at most",
    )
    beta: float = Field(
        0.05, gt=0, le=0.5, description="Chance of promoting a version that is beyond a margin, at most"
    )
    error_margin: float = Field(
        0.02, gt=0, lt=1, description="Share of 5xx (and of 4xx) above the old version's that is tolerated, in points"
    )
    latency_quantile: float = Field(0.9, ge=0.1, le=0.999, description="Which quantile of ModelLatency is compared")
    latency_ratio: float = Field(
        1.5, ge=1.05, le=100, description="That quantile ÷ the old version's, tolerated up to this"
    )
    harmless: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Part of those two margins that is no reason to take the new version back. Between it and the "
        "margin either verdict may fall. 0: any difference that is proven; 1: only what is beyond the margin",
    )
    min_agreement: float = Field(
        0.5, ge=0, lt=1, description="SHADOW: mean share of equal tokens in both answers to a request, at least"
    )
    patience_seconds: int = Field(
        3600,
        ge=60,
        le=604_800,
        description="Wait so long for a verdict: after the last bake, or from the start of an AB_TEST or SHADOW",
    )
    undecided: Literal["restore", "stuck"] = Field(
        "restore",
        description="Patience is over and there is no verdict: restore the old version, or leave everything as it is "
        "and fail (ReleaseStuck)",
    )

    @property
    def harmless_points(self) -> float:
        """Error shares above the old version's by at most this are no reason to go back."""
        return self.harmless * self.error_margin

    @property
    def harmless_ratio(self) -> float:
        """The same of the latency's ratio."""
        return float(self.latency_ratio**self.harmless)


Mode = Literal["CANARY", "LINEAR", "ALL_AT_ONCE", "ROLLING", "WEIGHTS", "AB_TEST", "SHADOW"]


class ReleasePlan(Choice):
    """How live traffic moves to the new version."""

    endpoint: EndpointName = "slimline-demo"
    mode: Mode = Field(
        "CANARY",
        description="By SageMaker, guarded by alarms and the judge: CANARY, LINEAR, ALL_AT_ONCE (blue/green), ROLLING "
        "(batches). By the judge alone, both versions beside each other: WEIGHTS (share rises step by step), AB_TEST "
        "(fixed share), SHADOW (copies of requests; users see the old version's answers only)",
    )
    target: Target = Target()
    instance_type: str = Field("ml.m5.xlarge", description="SageMaker instance type; must suit the target")
    instances: int = Field(2, ge=1, le=100, description="Instances of a fleet; a canary needs at least 2")
    step_percent: int = Field(
        50,
        ge=1,
        le=50,
        description="CANARY, LINEAR: step, % of the new fleet. ROLLING: batch, % of the fleet. WEIGHTS: step, % of the "
        "traffic. AB_TEST: the new version's % of the traffic",
    )
    bake_seconds: int = Field(300, ge=0, le=3600, description="Watch this long after each step, seconds")
    max_error_rate: float = Field(0.02, gt=0, lt=1, description="5xx share of the new fleet that fires the alarm")
    max_latency_ms: float = Field(
        30_000, gt=0, description="Average ModelLatency of the new fleet that fires the alarm, milliseconds"
    )
    min_requests: int = Field(
        10, ge=0, description="Requests that the new version must have answered before the release counts as promoted"
    )
    judge: JudgeRules = Field(JudgeRules(), json_schema_extra=FOLDED)
    approve: bool = Field(
        False,
        description="Ask a person: before the promotion of WEIGHTS, AB_TEST and SHADOW, else before any traffic moves",
    )
    approve_seconds: int = Field(
        3600, ge=10, le=604_800, description="Wait so long for that person, wall clock; then the old version stays"
    )
    capture_percent: int = Field(
        100, ge=1, le=100, description="SHADOW: share of the requests whose answers are kept in S3 and compared, %"
    )
    original_first: bool = Field(
        True,
        description="Where the endpoint does not exist yet: serve the original first, then move to the new version",
    )
    probe_prompt: str = Field(
        "The capital of France is", min_length=1, description="The real inference that decides success"
    )
    rehearsal: Rehearsal = Field(Rehearsal(), json_schema_extra=FOLDED)
    serve: Literal["auto", "onnx", "torch"] = Field(
        "auto",
        description="Which folder of the version is served: onnx the exported one, torch the compressed one; auto "
        "takes the exported one where there is one and the instance has no accelerator",
    )
    inference: Inference = Field(
        "REAL_TIME",
        description="REAL_TIME: answers at once. ASYNC: a queue, answers in S3. SERVERLESS: no instances, CPU only",
    )
    asynchronous: AsyncInference = Field(AsyncInference(), json_schema_extra=FOLDED)
    serverless: Serverless = Field(Serverless(), json_schema_extra=FOLDED)
    scaling: Scaling = Field(Scaling(), json_schema_extra=FOLDED)
    monitoring: MonitoringPlan = Field(MonitoringPlan(), json_schema_extra=FOLDED)

    @property
    def payload(self) -> dict[str, float]:
        """Parameters of the requests that a release sends itself."""
        if self.target.kind == "jumpstart":
            return self.target.jumpstart.model_dump(include={"max_new_tokens", "top_p", "temperature"})
        return {"max_new_tokens": 8}

    @property
    def on_trial(self) -> bool:
        """Whether both versions stand in one config and Slimline moves the traffic, not SageMaker's guardrails."""
        return self.mode in ("WEIGHTS", "AB_TEST", "SHADOW")

    @property
    def shares(self) -> tuple[int, ...]:
        """Of a trial: the new version's % of the traffic, step by step, before it is promoted."""
        if self.mode == "WEIGHTS":
            return tuple(range(self.step_percent, 100, self.step_percent))
        return (self.step_percent,) if self.mode == "AB_TEST" else (0,) if self.mode == "SHADOW" else ()

    @property
    def after_shadow(self) -> ReleasePlan:
        """How the version that a SHADOW has proven takes the traffic: guarded, as a canary where there are two."""
        mode: Mode = "CANARY" if self.instances > 1 else "ALL_AT_ONCE"
        judge = self.judge.model_copy(update={"promote": False})
        return self.model_copy(update={"mode": mode, "step_percent": 50, "judge": judge, "approve": False})
