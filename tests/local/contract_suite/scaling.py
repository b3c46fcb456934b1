"""Application Auto Scaling."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.local.contract_suite.world import World, rows

scaling = partial(rows, "application-autoscaling")
ABSENT = "endpoint/absent/variant/main"


def target(world: World, **change: Any) -> dict[str, Any]:
    """The variant as a scalable target."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{world.ready()}/variant/main",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    } | change


def listed(world: World, **change: Any) -> dict[str, Any]:
    return {"ServiceNamespace": "sagemaker", "ResourceId": target(world)["ResourceId"]} | change


def policy(world: World, **change: Any) -> dict[str, Any]:
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    config = {"TargetValue": 1e6, "PredefinedMetricSpecification": metric, "DisableScaleIn": True}
    return (
        target(world)
        | {
            "PolicyName": "contract",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": config,
        }
        | change
    )


def action(world: World, **change: Any) -> dict[str, Any]:
    return (
        target(world)
        | {
            "ScheduledActionName": "contract",
            "Schedule": "cron(0 3 * * ? *)",
            "Timezone": "Europe/Berlin",
            "ScalableTargetAction": {"MinCapacity": 2, "MaxCapacity": 3},
        }
        | change
    )


def arn(world: World) -> str:
    given = {name: value for name, value in target(world).items() if name != "ServiceNamespace"}
    client = world.deck.service.client("application-autoscaling")
    found: str = client.register_scalable_target(ServiceNamespace="sagemaker", **given)["ScalableTargetARN"]
    return found


ROWS = [
    *scaling(
        "RegisterScalableTarget",
        lambda w: target(w, MinCapacity=2, MaxCapacity=3, Tags={"suite": "contract"}),
        ("ValidationException", 400, True, lambda w: target(w, MinCapacity=3, MaxCapacity=2)),
        ("ValidationException", 400, False, lambda w: target(w, ScalableDimension="sagemaker:variant:Size")),
    ),
    *scaling(
        "DescribeScalableTargets",
        lambda w: {"ServiceNamespace": "sagemaker", "ResourceIds": [target(w)["ResourceId"]]},
        ("ValidationException", 400, False, lambda w: {"ServiceNamespace": "nowhere"}),
        ("InvalidNextTokenException", 400, True, lambda w: {"ServiceNamespace": "sagemaker", "NextToken": "?"}),
    ),
    *scaling(
        "PutScalingPolicy",
        policy,
        ("ObjectNotFoundException", 400, True, lambda w: policy(w, ResourceId=ABSENT)),
        ("ValidationException", 400, False, lambda w: policy(w, PolicyType="SimpleScaling")),
    ),
    *scaling(
        "DescribeScalingPolicies",
        listed,
        ("ValidationException", 400, False, lambda w: listed(w, PolicyNames=["p"] * 51)),
    ),
    *scaling(
        "DeleteScalingPolicy",
        lambda w: target(w, PolicyName="contract"),
        ("ObjectNotFoundException", 400, True, lambda w: target(w, PolicyName="absent")),
    ),
    *scaling(
        "PutScheduledAction",
        action,
        ("ValidationException", 400, True, lambda w: action(w, Schedule="at(2020-01-01T00:00:00)")),
        ("ObjectNotFoundException", 400, True, lambda w: action(w, ResourceId=ABSENT)),
    ),
    *scaling(
        "DescribeScheduledActions",
        listed,
        ("ValidationException", 400, False, lambda w: listed(w, ScalableDimension="none")),
    ),
    *scaling(
        "DeleteScheduledAction",
        lambda w: target(w, ScheduledActionName="contract"),
        ("ObjectNotFoundException", 400, True, lambda w: target(w, ScheduledActionName="absent")),
    ),
    *scaling(
        "DescribeScalingActivities",
        lambda w: listed(w, IncludeNotScaledActivities=True),
        ("ValidationException", 400, False, lambda w: listed(w, ScalableDimension="none")),
    ),
    *scaling(
        "TagResource",
        lambda w: {"ResourceARN": arn(w), "Tags": {"k": "v"}},
        ("ResourceNotFoundException", 400, True, lambda w: {"ResourceARN": arn(w) + "0", "Tags": {"k": "v"}}),
    ),
    *scaling(
        "ListTagsForResource",
        lambda w: {"ResourceARN": arn(w)},
        ("ResourceNotFoundException", 400, True, lambda w: {"ResourceARN": arn(w) + "0"}),
    ),
    *scaling(
        "UntagResource",
        lambda w: {"ResourceARN": arn(w), "TagKeys": ["k"]},
        ("ResourceNotFoundException", 400, True, lambda w: {"ResourceARN": arn(w) + "0", "TagKeys": ["k"]}),
    ),
    *scaling(
        "DeregisterScalableTarget",
        target,
        ("ObjectNotFoundException", 400, True, lambda w: target(w, ResourceId=ABSENT)),
    ),
]
