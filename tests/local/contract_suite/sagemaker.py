"""SageMaker's control plane."""

from __future__ import annotations

from typing import Any

from tests.local.contract_suite.world import Parameters, Row, World
from tests.local.stack import ROLE, canary, until, variant


def sagemaker(operation: str, good: Parameters, **refused: Parameters) -> list[Row]:
    """A good call, and refused ones: ``rule`` fits the service model, ``shape`` does not."""
    rows = [Row("sagemaker", operation, good)]
    for kind, parameters in refused.items():
        rows.append(Row("sagemaker", operation, parameters, "ValidationException", 400, model=kind != "shape"))
    return rows


def new_config(world: World, **change: Any) -> dict[str, Any]:
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 50,
        "DestinationS3Uri": "s3://contract/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    spec = variant("main", world.model, RoutingConfig={"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"})
    return {
        "EndpointConfigName": world.name("config"),
        "ProductionVariants": [spec | change],
        "DataCaptureConfig": capture,
        "Tags": [{"Key": "suite", "Value": "contract"}],
    }


def hub_content(world: World, **change: Any) -> dict[str, Any]:
    return {
        "HubName": "SageMakerPublicHub",
        "HubContentType": "Model",
        "HubContentName": "stand-in-textgeneration",
        **change,
    }


def weights(world: World, **change: Any) -> dict[str, Any]:
    wanted = {"VariantName": "main", "DesiredWeight": 2.0, "DesiredInstanceCount": 2} | change
    return {"EndpointName": world.ready(), "DesiredWeightsAndCapacities": [wanted]}


def update(world: World, **change: Any) -> dict[str, Any]:
    return {"EndpointName": world.ready(), "EndpointConfigName": world.deck.config(count=2)} | change


def rolling(batch: int) -> dict[str, Any]:
    size = {"Type": "INSTANCE_COUNT", "Value": batch}
    return {"RollingUpdatePolicy": {"MaximumBatchSize": size, "WaitIntervalInSeconds": 1}}


def baking(world: World) -> dict[str, Any]:
    """The endpoint in the middle of a deployment."""
    world.deck.sagemaker.update_endpoint(**update(world, DeploymentConfig=canary(50, wait=60, end=0)))

    def stages(seen: dict[str, Any]) -> list[str]:
        variants = seen.get("PendingDeploymentSummary", {}).get("ProductionVariants", [])
        return [status["Status"] for each in variants for status in each.get("VariantStatus", [])]

    until(lambda: world.deck.describe(world.endpoint), lambda seen: "Baking" in stages(seen))
    return {"EndpointName": world.endpoint}


def container(**change: Any) -> dict[str, Any]:
    return {"Image": "echo:1", "Environment": {"A": "b"}} | change


ROWS = [
    # models
    *sagemaker(
        "CreateModel",
        lambda w: {"ModelName": w.name("m"), "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
        rule=lambda w: {"ModelName": w.model, "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
        shape=lambda w: {"ModelName": "-m-", "PrimaryContainer": container(), "ExecutionRoleArn": ROLE},
    ),
    *sagemaker("DescribeModel", lambda w: {"ModelName": w.model}, rule=lambda w: {"ModelName": "absent"}),
    *sagemaker(
        "ListModels",
        lambda w: {"NameContains": "m", "MaxResults": 5},
        shape=lambda w: {"MaxResults": 101},
        rule=lambda w: {"NextToken": "?"},
    ),
    *sagemaker("DeleteModel", lambda w: {"ModelName": w.deck.model()}, rule=lambda w: {"ModelName": "absent"}),
    # configurations
    *sagemaker(
        "CreateEndpointConfig",
        new_config,
        rule=lambda w: new_config(w, ModelName="absent"),
        shape=lambda w: new_config(w, InstanceType="ml.bogus.large"),
    ),
    *sagemaker(
        "DescribeEndpointConfig",
        lambda w: {"EndpointConfigName": w.config},
        rule=lambda w: {"EndpointConfigName": "absent"},
    ),
    *sagemaker("ListEndpointConfigs", lambda w: {"SortBy": "Name"}, shape=lambda w: {"SortBy": "Size"}),
    *sagemaker(
        "DeleteEndpointConfig",
        lambda w: {"EndpointConfigName": w.deck.config()},
        rule=lambda w: {"EndpointConfigName": "absent"},
    ),
    # endpoints
    *sagemaker(
        "CreateEndpoint",
        lambda w: {"EndpointName": w.made(w.name("e")), "EndpointConfigName": w.config},
        rule=lambda w: {"EndpointName": w.endpoint, "EndpointConfigName": w.config},
        shape=lambda w: {"EndpointConfigName": w.config},
    ),
    *sagemaker("DescribeEndpoint", lambda w: {"EndpointName": w.endpoint}, rule=lambda w: {"EndpointName": "absent"}),
    Row("sagemaker", "DescribeEndpoint", baking),
    Row("sagemaker", "UpdateEndpoint", lambda w: update(w, DeploymentConfig=rolling(1))),
    Row("sagemaker", "UpdateEndpoint", lambda w: update(w, DeploymentConfig=rolling(2)), "ValidationException", 400),
    Row("sagemaker", "DescribeEndpoint", lambda w: {"EndpointName": w.queue}),
    *sagemaker("ListEndpoints", lambda w: {"StatusEquals": "InService"}, shape=lambda w: {"StatusEquals": "Well"}),
    *sagemaker(
        "UpdateEndpoint",
        lambda w: update(w, DeploymentConfig=canary(50, wait=1, end=1)),
        rule=lambda w: update(w, DeploymentConfig=canary(60)),
        shape=lambda w: update(w, DeploymentConfig=canary(50, wait=9_999)),
    ),
    *sagemaker(
        "UpdateEndpointWeightsAndCapacities",
        weights,
        rule=lambda w: weights(w, VariantName="absent"),
        shape=lambda w: weights(w, DesiredWeight=-1.0),
    ),
    *sagemaker(
        "DeleteEndpoint",
        lambda w: {"EndpointName": w.deck.endpoint(w.deck.config(), keep=True)},
        rule=lambda w: {"EndpointName": "absent"},
    ),
    # the public hub
    Row("sagemaker", "DescribeHubContent", hub_content),
    Row(
        "sagemaker", "DescribeHubContent", lambda w: hub_content(w, HubContentVersion="9.9.9"), "ResourceNotFound", 400
    ),
    Row(
        "sagemaker",
        "DescribeHubContent",
        lambda w: hub_content(w, HubContentType="Poem"),
        "ValidationException",
        400,
        model=False,
    ),
    # tags
    *sagemaker(
        "AddTags",
        lambda w: {"ResourceArn": w.arn("model", w.model), "Tags": [{"Key": "k", "Value": "v"}]},
        rule=lambda w: {"ResourceArn": w.arn("model", "absent"), "Tags": [{"Key": "k", "Value": "v"}]},
        shape=lambda w: {"ResourceArn": w.arn("model", w.model), "Tags": [{"Key": "k" * 129, "Value": "v"}]},
    ),
    *sagemaker(
        "ListTags",
        lambda w: {"ResourceArn": w.arn("endpoint", w.endpoint)},
        rule=lambda w: {"ResourceArn": w.arn("endpoint", "absent")},
    ),
    *sagemaker(
        "DeleteTags",
        lambda w: {"ResourceArn": w.arn("model", w.model), "TagKeys": ["k"]},
        rule=lambda w: {"ResourceArn": w.arn("model", "absent"), "TagKeys": ["k"]},
    ),
]
