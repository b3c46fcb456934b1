"""Asynchronous endpoints released for real; serverless ones as requests that a reviewer has read; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from tasks.adapters.inference_kinds import check_inference, check_kind, check_size
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.sagemaker_requests import blueprint, create_endpoint, update_endpoint
from tasks.errors import RefusedModel, RefusedRequest
from tasks.plans import Mode, ReleasePlan
from tasks.scale import make_ready
from tasks.scaling_plan import AsyncInference, Scaling
from tests.adapters.packages import ROLE, on_aws, package
from tests.adapters.releasing import Desk, plan_of, story
from tests.adapters.written import same_as_written
from tests.local.stack import until

TOPICS = {
    "success_topic": "arn:aws:sns:us-east-1:111111111111:done",
    "error_topic": "arn:aws:sns:us-east-1:111111111111:bad",
}
ON_AWS = {"rehearsal": {"requests_per_second": 0}}
KINDS: dict[str, dict[str, Any]] = {
    "async": {"inference": "ASYNC", "asynchronous": {"max_concurrent": 4, **TOPICS}, **ON_AWS},
    "async-elsewhere": {"inference": "ASYNC", "asynchronous": {"output": "s3://answers/of/us/"}, **ON_AWS},
    "serverless": {"inference": "SERVERLESS", "mode": "ALL_AT_ONCE", "serverless": {"provisioned": 1}, **ON_AWS},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_requests_are_what_a_reviewer_has_read(name: str, tmp_path: Path) -> None:
    plan = ReleasePlan.model_validate(KINDS[name])
    archive = f"s3://slimline-models/models/{'a' * 64}.tar.gz" if name == "serverless" else None
    made = blueprint(package("7", s3_uri=archive), plan, ROLE, {})
    update = update_endpoint(plan.endpoint, made.name, plan, retain=False)
    requests: list[tuple[str, Any]] = [
        ("CreateModel", made.model), ("CreateEndpointConfig", made.config),
        ("CreateEndpoint", create_endpoint(plan.endpoint, made)), ("UpdateEndpoint", update),
    ]  # fmt: skip
    for operation, request in requests:
        check_request("sagemaker", operation, request)
    same_as_written(f"endpoint-{name}", [{operation: request} for operation, request in requests])
    on_aws(tmp_path).check_plan(plan)


@pytest.mark.parametrize(
    ("change", "cause", "remedy"),
    [
        ({"inference": "ASYNC", "mode": "SHADOW", "instances": 1}, "no shadow variants", "CANARY"),
        ({"inference": "ASYNC", "mode": "AB_TEST"}, "name no variant", "CANARY"),
        ({"inference": "ASYNC", "asynchronous": {"output": "https://x"}}, "answers go to S3", "empty"),
        ({"inference": "SERVERLESS"}, "guardrails", "ALL_AT_ONCE"),
        ({"inference": "SERVERLESS", "mode": "WEIGHTS"}, "several variants", "ALL_AT_ONCE"),
        ({"inference": "SERVERLESS", "mode": "ALL_AT_ONCE", "instance_type": "ml.g5.xlarge"}, "no GPU", "REAL_TIME"),
        (
            {"inference": "SERVERLESS", "mode": "ALL_AT_ONCE", "serverless": {"provisioned": 9}},
            "part of the endpoint's concurrency", "max_concurrency",
        ),
    ],
)  # fmt: skip
def test_what_sagemaker_does_not_allow_is_refused_before(
    change: dict[str, Any], cause: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedRequest) as refused:
        on_aws(tmp_path).check_plan(ReleasePlan.model_validate(change | ON_AWS))
    assert cause in refused.value.cause and remedy in refused.value.remedy


def test_what_only_aws_has_is_said_on_the_embedded_stack(desk: Desk) -> None:
    for change in (
        {"inference": "SERVERLESS", "mode": "ALL_AT_ONCE"},
        {"inference": "ASYNC", "asynchronous": TOPICS},
        {"inference": "ASYNC", "scaling": {"kind": "target_tracking", "min_instances": 0}},
    ):
        with pytest.raises(RefusedRequest, match="works on AWS only"):
            desk.cloud().check_plan(ReleasePlan.model_validate(change))


def test_a_model_must_fit_the_memory_of_a_serverless_request() -> None:
    plan = ReleasePlan.model_validate(KINDS["serverless"])
    check_size(plan, 4 << 30)
    with pytest.raises(RefusedModel, match="does not fit a serverless endpoint"):
        check_size(plan, (4 << 30) + 1)
    check_size(ReleasePlan(), 100 << 30)


def test_an_endpoint_keeps_its_kind() -> None:
    with pytest.raises(RefusedRequest, match="keeps its kind") as refused:
        check_kind(ReleasePlan(inference="ASYNC"), "REAL_TIME")
    assert "new endpoint" in refused.value.remedy
    check_inference(ReleasePlan(), rehearsed=True)


def asynchronous(endpoint: str, mode: Mode = "CANARY", **changes: Any) -> ReleasePlan:
    plan = plan_of(endpoint, mode, inference="ASYNC", asynchronous=AsyncInference(max_concurrent=4), **changes)
    return ReleasePlan.model_validate(plan.model_dump())


def test_an_asynchronous_endpoint_is_released_by_canary(desk: Desk) -> None:
    plan = asynchronous("queue-good")
    cloud = desk.cloud()
    desk.serve(plan)
    serving = cloud.serving(plan.endpoint)
    assert serving is not None and serving.inference == "ASYNC"
    assert cloud.probe(plan.endpoint, "The capital of France is") == "The capital of France is"
    with pytest.raises(RefusedRequest, match="keeps its kind"):
        make_ready(cloud, plan.model_copy(update={"inference": "REAL_TIME"}))
    rollout = released(desk, plan, "2")
    assert rollout.phase == "promoted" and rollout.probe == plan.probe_prompt, story(rollout)
    last = rollout.observations[-1]
    assert last.green and last.green.requests >= plan.min_requests and last.verdict == "promoted", story(rollout)
    view = cloud.overview(plan.endpoint)[0].variants[0]
    assert view.requests > 5 and view.errors == 0


def test_a_bad_version_of_an_asynchronous_endpoint_is_taken_back(desk: Desk) -> None:
    plan = asynchronous("queue-bad")
    blue = desk.serve(plan)
    rollout = released(desk, plan, "3", ECHO_ERROR_SHARE="0.6")
    assert rollout.phase == "restored" and rollout.config == blue, story(rollout)
    assert desk.cloud().probe(plan.endpoint, "still here") == "still here"


def released(desk: Desk, plan: ReleasePlan, number: str, **environment: str) -> Any:
    """Under load that InvokeEndpointAsync takes."""
    cloud: SageMaker = desk.cloud()
    desk.senders[plan.endpoint] = lambda prompt: cloud.send(plan.endpoint, prompt, {})
    return desk.release(plan, number, **environment)


def test_a_backlog_scales_out_and_its_end_scales_in(desk: Desk) -> None:
    scaling = Scaling(kind="target_tracking", target=2, max_instances=3, scale_out_cooldown=0, scale_in_cooldown=60)
    plan = asynchronous("queue-scales", mode="ALL_AT_ONCE", scaling=scaling)
    slow = desk.cloud(ECHO_SECONDS="0.3")
    slow.rollouts.create(plan.endpoint, desk.version("1"), plan)
    until(lambda: slow.serving(plan.endpoint), lambda seen: seen is not None and seen.status == "InService")
    slow.scaling.apply(plan)

    def count() -> int:
        return slow.trials.standing(plan.endpoint).instances["AllTraffic"]

    runtime = boto3.client("sagemaker-runtime", endpoint_url=desk.url, region_name="us-east-1")
    body = json.dumps({"inputs": "a"}).encode()
    for _ in range(200):
        runtime.invoke_endpoint_async(EndpointName=plan.endpoint, Body=body, ContentType="application/json")
    until(count, lambda seen: seen == 3, seconds=60)
    until(count, lambda seen: seen == 1, seconds=90)
