"""What is asked of Application Auto Scaling, and what is refused before anything is."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.sagemaker_names import is_name_of, is_own_name
from tasks.adapters.scaling_limits import check_scaling
from tasks.adapters.scaling_overview import describe_scaling
from tasks.adapters.scaling_requests import policies, scalable_target, scheduled_actions
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan
from tests.adapters.written import same_as_written

SHOPPING = {"schedule": "cron(0 8 ? * MON-FRI *)", "min_instances": 3, "max_instances": 8, "timezone": "Europe/Berlin"}
TABLE = [{"above": 0, "add": 1}, {"above": 30, "add": 2}, {"above": 90, "add": 5}]
PLANS: dict[str, dict[str, Any]] = {
    "invocations": {"scaling": {"kind": "target_tracking", "target": 70, "min_instances": 2, "schedule": [SHOPPING]}},
    "concurrency": {"scaling": {"kind": "target_tracking", "metric": "concurrency", "target": 4}},
    "step": {"scaling": {"kind": "step", "steps": TABLE, "scale_in_below": 20, "scale_out_cooldown": 60}},
    "simple": {"scaling": {"kind": "simple", "steps": [{"add": 2}]}},
    "scheduled": {"scaling": {"kind": "scheduled", "schedule": [SHOPPING]}},
    "backlog": {"inference": "ASYNC", "scaling": {"kind": "target_tracking", "target": 5, "min_instances": 0}},
    "utilization": {
        "inference": "SERVERLESS", "mode": "ALL_AT_ONCE", "serverless": {"provisioned": 2, "max_concurrency": 20},
        "scaling": {"kind": "target_tracking", "target": 0.7, "max_instances": 10},
    },
}  # fmt: skip


def plan_of(given: dict[str, Any]) -> ReleasePlan:
    return ReleasePlan.model_validate(given)


@pytest.mark.parametrize("name", PLANS)
def test_the_requests_are_what_a_reviewer_has_read(name: str) -> None:
    plan = plan_of(PLANS[name])
    check_scaling(plan)
    found = [{"RegisterScalableTarget": scalable_target(plan)}]
    for policy in policies(plan):
        found += [{"PutScalingPolicy": policy.request}]
        found += [{"PutMetricAlarm": dict(policy.alarm)}] if policy.alarm else []
    found += [{"PutScheduledAction": action} for action in scheduled_actions(plan)]
    same_as_written(f"scaling-{name}", found)


def test_names_come_from_content_and_are_known_again() -> None:
    plan = plan_of(PLANS["step"])
    names = [policy.request["PolicyName"] for policy in policies(plan)]
    assert names == [policy.request["PolicyName"] for policy in policies(plan_of(PLANS["step"]))]
    assert len(set(names)) == 2
    assert all(is_name_of(plan.endpoint, name) and is_own_name(name) for name in names)
    assert not is_name_of("slimline", names[0])
    other = plan.model_copy(update={"scaling": plan.scaling.model_copy(update={"target": 61.0})})
    assert policies(other)[0].request["PolicyName"] != names[0]
    assert describe_scaling(plan) == "1 to 4 instances, steps +1, +2, +5, steps -1"


@pytest.mark.parametrize(
    ("change", "cause", "remedy"),
    [
        ({"instances": 5, "scaling": {"kind": "simple"}}, "move the fleet", "plan.instances"),
        ({"scaling": {"kind": "simple", "min_instances": 3}}, "move the fleet", "plan.instances"),
        ({"instance_type": "ml.t2.medium", "scaling": {"kind": "simple"}}, "burstable", "another instance type"),
        ({"scaling": {"kind": "target_tracking", "min_instances": 0}}, "requests can wait", "min_instances to 1"),
        ({"inference": "ASYNC", "scaling": {"kind": "simple", "min_instances": 0}}, "requests can wait", "to 1"),
        ({"scaling": {"kind": "target_tracking", "metric": "backlog"}}, "no such metric", "auto"),
        (
            {"inference": "ASYNC", "scaling": {"kind": "target_tracking", "metric": "invocations"}},
            "no such metric", "auto",
        ),
        ({"scaling": {"kind": "step", "steps": [{"above": 5}]}}, "step table", "steps"),
        ({"scaling": {"kind": "step", "steps": [{"above": 0}, {"above": 0}]}}, "step table", "steps"),
        ({"scaling": {"kind": "step", "steps": []}}, "step table", "steps"),
        ({"scaling": {"kind": "step", "steps": [{"above": n} for n in range(21)]}}, "step table", "steps"),
        ({"scaling": {"kind": "simple", "scale_in_below": 60}}, "at the same load", "scale_in_below"),
        ({"scaling": {"kind": "scheduled"}}, "no times", "cron"),
        ({"scaling": {"kind": "none", "schedule": [SHOPPING]}}, "nobody's bounds", "scheduled"),
        ({"scaling": {"kind": "scheduled", "schedule": [SHOPPING | {"schedule": "0 8 * * *"}]}}, "expression", "cron"),
        ({"scaling": {"kind": "scheduled", "schedule": [SHOPPING | {"timezone": "Mars/Base"}]}}, "time zone", "UTC"),
        ({"scaling": {"kind": "scheduled", "schedule": [SHOPPING | {"min_instances": 9}]}}, "no count", "bounds"),
        ({"scaling": {"kind": "scheduled", "schedule": [SHOPPING | {"min_instances": 0}]}}, "no count", "bounds"),
        ({"inference": "SERVERLESS", "scaling": {"kind": "target_tracking"}}, "scales by itself", "kind to none"),
        (
            {"inference": "SERVERLESS", "serverless": {"provisioned": 2}, "scaling": {"kind": "step"}},
            "target or a schedule", "choose",
        ),
        (
            {"inference": "SERVERLESS", "serverless": {"provisioned": 2}, "scaling": {"kind": "target_tracking"}},
            "a share", "0.7",
        ),
        (
            {
                "inference": "SERVERLESS", "serverless": {"provisioned": 2},
                "scaling": {"kind": "target_tracking", "target": 0.7, "max_instances": 10},
            },
            "part of the endpoint's concurrency", "max_concurrency",
        ),
    ],
)  # fmt: skip
def test_what_aws_refuses_is_refused_before(change: dict[str, Any], cause: str, remedy: str) -> None:
    with pytest.raises(RefusedRequest) as refused:
        check_scaling(plan_of(change))
    assert cause in refused.value.cause and remedy in refused.value.remedy
    assert refused.value.observed and refused.value.limit


def test_inf1_may_be_autoscaled() -> None:
    """Inf1 is excluded from guardrails, not from autoscaling."""
    check_scaling(plan_of({"instance_type": "ml.inf1.xlarge", "scaling": {"kind": "target_tracking"}}))


def test_the_service_model_is_held_against_every_request() -> None:
    broken = scalable_target(plan_of(PLANS["step"])) | {"ScalableDimension": "sagemaker:variant:Instances"}
    with pytest.raises(RefusedRequest, match="ScalableDimension"):
        check_request("application-autoscaling", "RegisterScalableTarget", broken)
