"""What Application Auto Scaling knows: scalable targets, policies, scheduled actions and activities."""

from __future__ import annotations

import re
import uuid
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from deployments.local.endpoint_service.state import ACCOUNT
from deployments.local.endpoint_service.wire import AwsError, Json, invalid, not_implemented

NAMESPACE, DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
_RESOURCE = re.compile(r"endpoint/([^/]+)/variant/([^/]+)")
_ACTIVITIES = 500  # AWS keeps six weeks; here the newest
IN_PROGRESS, SUCCESSFUL, FAILED = "InProgress", "Successful", "Failed"


@dataclass
class Target:
    """One scalable target: a variant's instance count and its bounds."""

    resource: str
    id: str
    created: float
    low: int
    high: int
    role: str
    suspended: Json
    tags: dict[str, str]
    waits: bool = False  # a move into the bounds waits until the endpoint is InService
    out_until: float = 0.0  # end of the scale-out cooldown, virtual seconds
    out_base: int = 0  # the count when that cooldown began: what was added since counts towards the next step
    in_until: float = 0.0

    @property
    def endpoint(self) -> str:
        return self.resource.split("/")[1]

    @property
    def variant(self) -> str:
        return self.resource.split("/")[3]

    def within(self, count: int) -> int:
        return min(max(count, self.low), self.high)


@dataclass
class Policy:
    """One scaling policy. ``alarms`` are those that target tracking made, the high one first."""

    name: str
    arn: str
    resource: str
    created: float
    kind: str
    config: Json
    alarms: list[str] = field(default_factory=list)


@dataclass
class Scheduled:
    """One scheduled action. ``next`` is when it runs, None when it has no time left."""

    name: str
    arn: str
    resource: str
    created: float
    request: Json
    next: float | None


@dataclass
class Activity:
    """One scaling activity. ``wanted``: the count that the endpoint should reach."""

    resource: str
    description: str
    cause: str
    started: float
    status: str
    message: str = ""
    ended: float | None = None
    reasons: list[Json] = field(default_factory=list)  # NotScaledReasons
    wanted: int | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Book:
    """Everything by resource, and by resource and name."""

    def __init__(self, region: str) -> None:
        self._region = region
        self.targets: dict[str, Target] = {}
        self.policies: dict[tuple[str, str], Policy] = {}
        self.actions: dict[tuple[str, str], Scheduled] = {}
        self.activities: deque[Activity] = deque(maxlen=_ACTIVITIES)

    def target_arn(self, target: Target) -> str:
        return f"arn:aws:application-autoscaling:{self._region}:{ACCOUNT}:scalable-target/{target.id}"

    def arn(self, kind: str, resource: str, tail: str) -> str:
        """Of a ``scalingPolicy`` or a ``scheduledAction``; its uuid is new."""
        return (
            f"arn:aws:autoscaling:{self._region}:{ACCOUNT}:{kind}:{uuid.uuid4()}:resource/{NAMESPACE}/{resource}:{tail}"
        )

    def target(self, request: Json, what: str = "registered for") -> Target:
        """The target that a request names. Raises ``ObjectNotFoundException``."""
        check_kind(request)
        found = self.targets.get(request["ResourceId"])
        if found is None:
            raise not_found("scalable target", what, request)
        return found

    def of(self, resource: str) -> list[Policy]:
        return [policy for policy in self.policies.values() if policy.resource == resource]

    def saved(self) -> Json:
        return {
            "targets": [asdict(target) for target in self.targets.values()],
            "policies": [asdict(policy) for policy in self.policies.values()],
            "actions": [asdict(action) for action in self.actions.values()],
            "activities": [asdict(activity) for activity in self.activities],
        }

    def restore(self, saved: Json) -> None:
        self.targets = {each["resource"]: Target(**each) for each in saved.get("targets", [])}
        self.policies = {(each["resource"], each["name"]): Policy(**each) for each in saved.get("policies", [])}
        self.actions = {(each["resource"], each["name"]): Scheduled(**each) for each in saved.get("actions", [])}
        self.activities.extend(Activity(**each) for each in saved.get("activities", []))


def check_kind(request: Json) -> tuple[str, str]:
    """Endpoint and variant of the request's ResourceId. Other namespaces and dimensions are refused by name."""
    for name, only in (("ServiceNamespace", NAMESPACE), ("ScalableDimension", DIMENSION)):
        if request[name] != only:
            raise not_implemented(f"Application Auto Scaling: {name} {request[name]}", f"{only} is.")
    match = _RESOURCE.fullmatch(request["ResourceId"])
    if not match:
        raise invalid("Unsupported service namespace, resource type or scalable dimension")
    return match.group(1), match.group(2)


def not_found(what: str, how: str, request: Json, name: str = "") -> AwsError:
    message = (
        f"No {what} {how} service namespace: {request['ServiceNamespace']}, resource ID: {request['ResourceId']}, "
        f"scalable dimension: {request['ScalableDimension']}" + (f": {name}" if name else "")
    )
    return AwsError("ObjectNotFoundException", message)


def listed(items: list[Any], request: Json) -> list[Any]:
    """Those of the resource that a Describe request names, if it names one."""
    if request["ServiceNamespace"] != NAMESPACE or request.get("ScalableDimension", DIMENSION) != DIMENSION:
        return []
    if request.get("ScalableDimension") and not (request.get("ResourceId") or request.get("ResourceIds")):
        raise invalid("ScalableDimension must be specified together with a resource ID.")
    wanted = {request["ResourceId"]} if request.get("ResourceId") else set(request.get("ResourceIds") or [])
    return [item for item in items if not wanted or item.resource in wanted]
