"""An endpoint as DescribeEndpoint shows it, and as people see it under ``/_slimline/``."""

from __future__ import annotations

from deployments.local.endpoint_service.fleets import Variant
from deployments.local.endpoint_service.router import routes
from deployments.local.endpoint_service.state import Endpoint, Pending
from deployments.local.endpoint_service.wire import Json, epoch


def endpoint_description(endpoint: Endpoint) -> Json:
    """DescribeEndpoint's output."""
    shown: Json = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": endpoint.config,
        "EndpointStatus": endpoint.status,
        "CreationTime": epoch(endpoint.created),
        "LastModifiedTime": epoch(endpoint.modified),
    }
    if endpoint.blue:
        shown["ProductionVariants"] = [_variant(variant) for variant in endpoint.blue.production.values()]
        if endpoint.blue.shadow:
            shown["ShadowProductionVariants"] = [_variant(endpoint.blue.shadow)]
        if capture := endpoint.blue.config.capture:
            shown["DataCaptureConfig"] = {
                "EnableCapture": capture.get("EnableCapture", False),
                "CaptureStatus": "Started" if capture.get("EnableCapture") else "Stopped",
                "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
                "DestinationS3Uri": capture["DestinationS3Uri"],
                "KmsKeyId": capture.get("KmsKeyId", ""),
            }
    if endpoint.failure:
        shown["FailureReason"] = endpoint.failure
    if endpoint.deployment:
        shown["LastDeploymentConfig"] = endpoint.deployment
    if endpoint.pending:
        shown["PendingDeploymentSummary"] = _pending(endpoint.pending)
    return shown


def _variant(variant: Variant) -> Json:
    image = variant.model.container["Image"]
    shown = {
        "VariantName": variant.name,
        # ResolvedImage is the same name: there is no registry here that could resolve a digest.
        "DeployedImages": [
            {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": epoch(variant.model.created)}
        ],
        "CurrentWeight": variant.weight,
        "DesiredWeight": variant.weight,
        "CurrentInstanceCount": len(variant.workers),
        "DesiredInstanceCount": variant.desired,
    }
    if routing := variant.spec.get("RoutingConfig"):
        shown["RoutingConfig"] = routing
    return shown


def _pending(pending: Pending) -> Json:
    production: list[Json] = []
    shadows: list[Json] = []
    for name, variant in pending.fleet.variants.items():
        shown = _variant(variant) | {"InstanceType": variant.spec["InstanceType"]}
        if found := pending.statuses.get(name):
            status, message, since = found
            shown["VariantStatus"] = [{"Status": status, "StatusMessage": message, "StartTime": epoch(since)}]
        (shadows if variant.shadow else production).append(shown)
    started, config = epoch(pending.started), pending.fleet.config.name
    summary: Json = {"EndpointConfigName": config, "StartTime": started, "ProductionVariants": production}
    return summary | ({"ShadowProductionVariants": shadows} if shadows else {})


def fleets(endpoint: Endpoint) -> Json:
    """Both fleets with their part of the traffic and what they served, and what happened so far."""
    parts: dict[int, float] = {}
    for variant, part in routes(endpoint):
        parts[id(variant)] = part
    total = sum(parts.values()) or 1.0
    seen = []
    roles = [("serving", endpoint.blue), ("new", endpoint.green), ("not rolled back", endpoint.mixed)]
    for role, fleet in [*roles, *(("leaving", fleet) for fleet in endpoint.leaving)]:
        if fleet is not None:
            weight = sum(parts.get(id(variant), 0.0) for variant in fleet.variants.values()) / total
            instances = sum(len(variant.workers) for variant in fleet.variants.values())
            summary = fleet.summary()
            for name, variant in fleet.variants.items():
                summary["variants"][name]["traffic"] = round(parts.get(id(variant), 0.0) / total, 6)
            seen.append({"role": role, "weight": round(weight, 6), "instances": instances, **summary})
    return {
        "endpoint": endpoint.name,
        "status": endpoint.status,
        "config": endpoint.config,
        "failure": endpoint.failure,
        "stage": {name: list(stage[:2]) for name, stage in endpoint.pending.statuses.items()}
        if endpoint.pending
        else {},
        "fleets": seen,
        "retired": list(endpoint.retired),
        "history": [{"when": epoch(event.when), "what": event.what} for event in endpoint.events],
    }
