"""SageMaker's rules between members, and what this service refuses because it cannot honour it.

Sources: the API reference of each operation and "Deployment guardrails for updating models in production". Where AWS's
exact text is not known the message says the rule in AWS's style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deployments.local.endpoint_service.state import EndpointConfig
from deployments.local.endpoint_service.wire import Json, invalid, not_implemented
from tasks.adapters.instances import instance

# Members whose effect does not exist here. Accepting them silently would be a made-up success.
_MODEL = ("InferenceExecutionConfig",)
_CONTAINER = (
    "AdditionalModelDataSources",
    "ModelPackageName",
    "InferenceSpecificationName",
    "MultiModelConfig",
    "ContainerMetricsConfig",
)
_CONFIG = (
    "ExplainerConfig",
    "MetricsConfig",
    "CrossRegionTrafficConfig",
)
_GATED = "s3://jumpstart-private-cache-prod-"
_VARIANT = (
    "AcceleratorPartitionLayouts",
    "AcceleratorType",
    "CapacityReservationConfig",
    "CoreDumpConfig",
    "InstancePools",
    "ManagedInstanceScaling",
    "ServerlessConfig",
)


def model_container(request: Json) -> Json:
    """The model's only container. Pipelines, multi-model and package models answer 501."""
    _refuse("CreateModel", request, _MODEL)
    containers = request.get("Containers") or []
    if bool(request.get("PrimaryContainer")) == bool(containers):
        raise invalid("Exactly one of PrimaryContainer and Containers must be provided.")
    if len(containers) > 1:
        raise not_implemented("CreateModel: an inference pipeline (several Containers)")
    container: Json = request.get("PrimaryContainer") or containers[0]
    _refuse("CreateModel", container, _CONTAINER)
    if container.get("Mode") == "MultiModel":
        raise not_implemented("CreateModel: Mode MultiModel")
    if not container.get("Image"):
        raise invalid("Requires one of Image or ModelPackageName for the primary container.")
    if container.get("ModelDataUrl") and container.get("ModelDataSource"):
        raise invalid("Only one of ModelDataUrl and ModelDataSource may be provided.")
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    for name in ("HubAccessConfig", "ManifestS3Uri", "ETag", "ManifestEtag"):
        if source.get(name):
            raise not_implemented(f"CreateModel: S3DataSource.{name}")
    if source.get("S3DataType") == "S3Prefix" and not source["S3Uri"].endswith("/"):
        raise invalid(f"S3DataSource.S3Uri {source['S3Uri']} must end with a forward slash for S3DataType S3Prefix.")
    gated, accepted = source.get("S3Uri", "").startswith(_GATED), source.get("ModelAccessConfig", {}).get("AcceptEula")
    if gated and not accepted:
        raise invalid(f"The model at {source['S3Uri']} requires ModelAccessConfig.AcceptEula to be true.")
    if source and (source["S3DataType"] == "S3Object") != (source["CompressionType"] == "Gzip"):
        raise not_implemented(
            "CreateModel: this pair of S3DataType and CompressionType", "Use S3Prefix with None or S3Object with Gzip."
        )
    return container


def endpoint_config(request: Json) -> None:
    """The rules of CreateEndpointConfig beyond its shapes."""
    _refuse("CreateEndpointConfig", request, _CONFIG)
    shadows = request.get("ShadowProductionVariants") or []
    every = [*request["ProductionVariants"], *shadows]
    names = [variant["VariantName"] for variant in every]
    if len(set(names)) < len(names):
        raise invalid(f"Production variant names must be unique, not {names}.")
    for variant in every:
        _variant(variant)
    if shadows and (len(shadows), len(request["ProductionVariants"])) != (1, 1):
        raise invalid(
            "An endpoint configuration with a shadow variant must have exactly one production variant and one shadow "
            f"variant, not {len(request['ProductionVariants'])} and {len(shadows)}."
        )
    if request.get("AsyncInferenceConfig"):
        _asynchronous(request)
    capture = request.get("DataCaptureConfig") or {}
    if capture and not capture["DestinationS3Uri"].startswith("s3://"):
        raise invalid("DataCaptureConfig.DestinationS3Uri must be an S3 URI.")
    if not sum(variant.get("InitialVariantWeight", 1.0) for variant in request["ProductionVariants"]):
        raise invalid("At least one production variant must have an InitialVariantWeight greater than 0.")


def _asynchronous(request: Json) -> None:
    """AsyncInferenceConfig, and what it cannot stand beside here."""
    output = request["AsyncInferenceConfig"]["OutputConfig"]
    if output.get("NotificationConfig"):
        raise not_implemented("CreateEndpointConfig: AsyncInferenceConfig.OutputConfig.NotificationConfig (SNS)")
    for name in ("S3OutputPath", "S3FailurePath"):
        if output.get(name, "").startswith("https:"):
            raise not_implemented(f"CreateEndpointConfig: {name} with https", "Use s3://bucket/prefix.")
    if not output.get("S3OutputPath"):
        raise not_implemented("CreateEndpointConfig: AsyncInferenceConfig without S3OutputPath")
    for name in ("ShadowProductionVariants", "DataCaptureConfig"):
        if request.get(name):
            raise not_implemented(f"CreateEndpointConfig: {name} beside AsyncInferenceConfig")


def _variant(variant: Json) -> None:
    name = variant["VariantName"]
    _refuse("CreateEndpointConfig", variant, _VARIANT)
    if not variant.get("ModelName"):
        raise not_implemented("CreateEndpointConfig: a variant without ModelName (inference components)")
    for member in ("InitialInstanceCount", "InstanceType"):
        if not variant.get(member):
            raise invalid(f"{member} is required for production variant {name}.")
    where = instance(variant["InstanceType"])
    if variant.get("VolumeSizeInGB") and where.store:
        raise invalid(f"VolumeSizeInGB cannot be given for {where.name}, which has local storage (variant {name}).")
    ami = variant.get("InferenceAmiVersion", "")
    if ami and ("-gpu-" in ami) != (where.device == "gpu"):
        raise invalid(f"InferenceAmiVersion {ami} is not supported for instance type {where.name} (variant {name}).")
    if variant.get("RoutingConfig", {}).get("RoutingStrategy") in ("PREFIX_AWARE", "KV_AWARE"):
        raise not_implemented(f"CreateEndpointConfig: RoutingStrategy {variant['RoutingConfig']['RoutingStrategy']}")


def deployment(config: Json, counts: Mapping[str, int]) -> None:
    """The rules of DeploymentConfig against the new fleet's instance counts by variant."""
    if config.get("RollingUpdatePolicy"):
        if config.get("BlueGreenUpdatePolicy"):
            raise invalid("Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy may be specified.")
        _size("MaximumBatchSize", config["RollingUpdatePolicy"]["MaximumBatchSize"], 5, counts)
        back = config["RollingUpdatePolicy"].get("RollbackMaximumBatchSize") or {}
        if back.get("Type") == "CAPACITY_PERCENT" and back["Value"] > 100:
            raise invalid(f"RollbackMaximumBatchSize must be at most 100 percent, not {back['Value']} percent.")
        return
    policy = config.get("BlueGreenUpdatePolicy")
    if not policy:
        raise invalid("Exactly one of BlueGreenUpdatePolicy and RollingUpdatePolicy must be specified.")
    routing = policy["TrafficRoutingConfiguration"]
    kind = routing["Type"]
    members = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}
    if kind in members and not routing.get(members[kind]):
        raise invalid(f"{members[kind]} must be specified for traffic routing type {kind}.")
    for other, member in members.items():
        if kind != other and routing.get(member):
            raise invalid(f"{member} must not be specified for traffic routing type {kind}.")
    if kind == "CANARY":
        _size("CanarySize", routing["CanarySize"], 1, counts)
    elif kind == "LINEAR":
        _size("LinearStepSize", routing["LinearStepSize"], 10, counts)


def rolling(new: EndpointConfig, old: EndpointConfig | None) -> None:
    """A rolling deployment is for one variant; a shadow variant is a second one."""
    for config in filter(None, (new, old)):
        if len(config.all_variants) != 1:
            names = ", ".join(sorted(spec["VariantName"] for spec in config.all_variants))
            raise invalid(
                "RollingUpdatePolicy is supported for endpoints with a single production variant only; endpoint "
                f"configuration {config.name} has {names}."
            )


def _size(member: str, size: Json, least: int, counts: Mapping[str, int]) -> None:
    value = size["Value"]
    bounds = f"between {least} and 50 percent" if least > 1 else "at most 50 percent"
    if size["Type"] == "CAPACITY_PERCENT" and not least <= value <= 50:
        raise invalid(f"{member} must be {bounds} of the new fleet's capacity, not {value} percent.")
    for name, count in counts.items():
        instances = instances_of(size, count)
        if 2 * instances > count:
            raise invalid(
                f"{member} must be {bounds} of the new fleet's capacity: {instances} of {count} instance(s) of variant "
                f"{name} is more. Traffic moves by whole instances; a variant needs at least 2 for this."
            )
        if instances * 100 < least * count:
            raise invalid(f"{member} must be {bounds} of the new fleet's capacity: {instances} of {count} is less.")


def instances_of(size: Json, count: int) -> int:
    """Whole instances of a CapacitySize: a percentage is cut down, but is at least one instance."""
    if size["Type"] == "INSTANCE_COUNT":
        return int(size["Value"])
    return max(1, count * int(size["Value"]) // 100)


def same_variants(old: Iterable[str], new: Iterable[str]) -> None:
    if set(old) != set(new):
        raise invalid(
            f"The new endpoint configuration must have the same variant names for a deployment with guardrails: "
            f"{sorted(old)} now, {sorted(new)} in the new one."
        )


def _refuse(operation: str, request: Json, members: Iterable[str]) -> None:
    for name in members:
        if request.get(name):
            raise not_implemented(f"{operation}: {name}")
