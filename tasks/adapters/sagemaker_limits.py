"""Refuse here what SageMaker would refuse there, or would silently misread.

botocore itself checks only required fields, types, unknown fields and numeric minima. Its service model knows more
(enums, patterns, maxima), which ``check_request`` applies; the rules across fields come from the developer guide's
pages on deployment guardrails:
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-configuration.html.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import botocore.session
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from tasks.adapters.sagemaker_requests import ALARM_PERIOD, MAX_EXECUTION, STARTING, bakes
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan

_API = "https://docs.aws.amazon.com/sagemaker/latest/APIReference"


def check_request(service: str, operation: str, params: Mapping[str, Any]) -> None:
    """Check one call of boto3 before it is made. ``service`` and ``operation`` as in botocore: sagemaker, CreateModel.

    Raises:
        RefusedRequest: naming the field, what it holds, and its limit.
    """
    shape = service_model(service).operation_model(operation).input_shape
    if shape is None:
        return
    report = ParamValidator().validate(dict(params), shape)
    if report.has_errors():
        raise _refused(operation, report.generate_report(), "the parameters that the API names", "mend the request")
    for path, observed, limit in _breaches(shape, params, ""):
        raise _refused(f"{operation}: {path.lstrip('.')}", observed, limit, f"see {_API}/API_{operation}.html")
    if operation in ("CreateEndpoint", "UpdateEndpoint") and "DeploymentConfig" in params:
        _check_deployment(operation, params["DeploymentConfig"])
    if operation == "CreateEndpointConfig":
        _check_variants(params)


@cache
def service_models() -> Loader:
    """The files that describe services, each read once a process: they are megabytes of JSON."""
    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


@cache
def service_model(service: str) -> ServiceModel:
    """botocore's description of a service; read from botocore's files, no network."""
    # As botocore's own clients ask for it: the loader remembers by how it was asked.
    return ServiceModel(service_models().load_service_model(service, "service-2", api_version=None), service)


def check_capacity(plan: ReleasePlan, instances: int) -> None:
    """A canary or a linear step is a whole number of instances: at least one, and something must be left.

    Raises:
        RefusedRequest: the fleet of ``instances`` cannot be split as ``plan`` asks.
    """
    if plan.mode not in ("CANARY", "LINEAR", "ROLLING"):
        return
    if instances < 2:
        raise _refused(
            f"a {plan.mode} rollout shifts whole instances, and this fleet has one",
            f"instances = {instances}",
            "at least 2 instances",
            "set plan.instances to 2 or more, or plan.mode to ALL_AT_ONCE",
        )
    step = instances * plan.step_percent / 100
    if step < 1:
        least = math.ceil(100 / instances)
        raise _refused(
            "the step is less than one instance",
            f"{plan.step_percent} % of {instances} instances = {step:.2f} instances",
            "at least one whole instance",
            f"set plan.step_percent to {least} or more, or use more instances",
        )


def check_rules(plan: ReleasePlan) -> None:
    """The plan's own ranges that neither the form nor the service model knows.

    Raises:
        RefusedRequest: with the field and its limit.
    """
    if plan.mode == "LINEAR" and plan.step_percent < 10:
        raise _refused(
            "a linear step is too small",
            f"plan.step_percent = {plan.step_percent}",
            "10 to 50 %",
            "set it to 10 or more",
        )
    if plan.mode == "ROLLING" and plan.step_percent < 5:
        raise _refused(
            "a rolling batch is too small",
            f"plan.step_percent = {plan.step_percent}",
            "5 to 50 %",
            "set it to 5 or more",
        )
    if plan.bake_seconds < ALARM_PERIOD:
        raise _refused(
            "the bake ends before an alarm can fire: SageMaker publishes its metrics once a minute",
            f"plan.bake_seconds = {plan.bake_seconds}",
            f"at least {ALARM_PERIOD} s (300 s leaves room for CloudWatch's delay)",
            "set plan.bake_seconds to 60 or more",
        )
    if not plan.on_trial and bakes(plan) * plan.bake_seconds > MAX_EXECUTION - STARTING:
        raise _refused(
            "the rollout's bakes do not fit SageMaker's longest deployment",
            f"{bakes(plan)} bakes of {plan.bake_seconds} s",
            f"{MAX_EXECUTION - STARTING} s in all ({MAX_EXECUTION} s less the time that instances need to start)",
            "set a shorter plan.bake_seconds or a larger plan.step_percent",
        )
    check_capacity(plan, plan.instances)


def _breaches(shape: Shape, value: Any, path: str) -> Iterator[tuple[str, object, str]]:
    """(path, observed, limit) of everything below ``value`` that the service model does not allow."""
    limits: Mapping[str, Any] = shape.metadata
    kind = shape.type_name
    if kind == "structure":
        members: Mapping[str, Shape] = shape.members  # type: ignore[attr-defined]
        for name, item in value.items():
            yield from _breaches(members[name], item, f"{path}.{name}")
    elif kind in ("list", "map"):
        low, high = limits.get("min", 0), limits.get("max", math.inf)
        if not low <= len(value) <= high:
            yield path, f"{len(value)} entries", f"{low} to {high} entries"
        if kind == "list":
            for index, item in enumerate(value):
                yield from _breaches(shape.member, item, f"{path}[{index}]")  # type: ignore[attr-defined]
        else:
            for key, item in value.items():
                yield from _breaches(shape.key, key, f"{path} (key)")  # type: ignore[attr-defined]
                yield from _breaches(shape.value, item, f"{path}.{key}")  # type: ignore[attr-defined]
    elif kind == "string":
        yield from _string_breaches(limits, getattr(shape, "enum", []), value, path)
    elif kind == "blob":
        high = limits.get("max", math.inf)
        if isinstance(value, bytes | str) and len(value) > high:
            yield path, f"{len(value)} bytes", f"at most {high} bytes"
    elif kind in ("integer", "long", "float", "double"):
        low, high = limits.get("min", -math.inf), limits.get("max", math.inf)
        if not (low <= value <= high and math.isfinite(value)):
            yield path, value, f"a finite number, {low} to {high}"


def _string_breaches(
    limits: Mapping[str, Any], enum: list[str], value: str, path: str
) -> Iterator[tuple[str, object, str]]:
    low, high = limits.get("min", 0), limits.get("max", math.inf)
    if enum and value not in enum:
        near = [item for item in enum if item.rsplit(".", 1)[0] == value.rsplit(".", 1)[0]] or enum
        yield (
            path,
            repr(value),
            f"one of {', '.join(near[:12])}" + (f" … ({len(enum)} in all)" if len(enum) > 12 else ""),
        )
    elif not low <= len(value) <= high:
        yield path, f"{len(value)} characters: {value[:80]!r}", f"{low} to {high} characters"
    elif "pattern" in limits and not re.fullmatch(_python_pattern(limits["pattern"]), value):
        yield path, repr(value[:200]), f"the pattern {limits['pattern']}"


@lru_cache(maxsize=256)
def _python_pattern(pattern: str) -> str:
    """AWS writes its patterns for Java; these are the classes that occur in the calls we make."""
    for java, python in (
        (r"\p{L}\p{Z}\p{N}", r"\w\s"),
        (r"\p{ASCII}", r"[\x00-\x7f]"),
        (r"\p{Print}", r"\x20-\x7e" if "[" in pattern else r"[\x20-\x7e]"),
        (r"\z", r"\Z"),
        (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"),  # surrogate pairs: what is beyond \uFFFF
    ):
        pattern = pattern.replace(java, python)
    return pattern


def _check_deployment(operation: str, deployment: Mapping[str, Any]) -> None:
    policies = [name for name in ("BlueGreenUpdatePolicy", "RollingUpdatePolicy") if name in deployment]
    if len(policies) != 1:
        raise _refused(
            f"{operation}: DeploymentConfig",
            ", ".join(policies) or "no policy",
            "exactly one of BlueGreenUpdatePolicy, RollingUpdatePolicy",
            "keep one",
        )
    alarms = deployment.get("AutoRollbackConfiguration", {}).get("Alarms")
    if alarms is not None and not 1 <= len(alarms) <= 10:
        raise _refused(
            f"{operation}: AutoRollbackConfiguration.Alarms", f"{len(alarms)} alarms", "1 to 10", "name 1 to 10"
        )
    if "RollingUpdatePolicy" in deployment:
        _check_size(operation, "MaximumBatchSize", deployment["RollingUpdatePolicy"]["MaximumBatchSize"], 5)
        return
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    wanted = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(routing["Type"])
    given = [name for name in ("CanarySize", "LinearStepSize") if name in routing]
    if given != ([wanted] if wanted else []):
        raise _refused(
            f"{operation}: TrafficRoutingConfiguration of type {routing['Type']}",
            ", ".join(given) or "no size",
            f"exactly {wanted}" if wanted else "no size",
            "give the size that the type needs",
        )
    if wanted:
        _check_size(operation, wanted, routing[wanted], 10 if wanted == "LinearStepSize" else 1)


def _check_size(operation: str, field: str, size: Mapping[str, Any], least: int) -> None:
    if size["Type"] == "CAPACITY_PERCENT" and not least <= size["Value"] <= 50:
        raise _refused(
            f"{operation}: {field}.Value", f"{size['Value']} %", f"{least} to 50 % of the fleet", "change the size"
        )


def _check_variants(params: Mapping[str, Any]) -> None:
    shadows = params.get("ShadowProductionVariants", [])
    if shadows and (len(params["ProductionVariants"]), len(shadows)) != (1, 1):
        raise _refused(
            "CreateEndpointConfig: ShadowProductionVariants",
            f"{len(params['ProductionVariants'])} production and {len(shadows)} shadow variants",
            "exactly one of each",
            "keep one of each",
        )
    names = [variant["VariantName"] for variant in (*params["ProductionVariants"], *shadows)]
    if len(names) != len(set(names)):
        raise _refused("CreateEndpointConfig: ProductionVariants", names, "different names", "rename a variant")


def _refused(cause: str, observed: object, limit: str, remedy: str) -> RefusedRequest:
    return RefusedRequest(cause, observed=observed, limit=limit, remedy=remedy)
