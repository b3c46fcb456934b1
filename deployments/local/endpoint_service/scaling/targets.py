"""Operations on scalable targets, their activities and tags."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.scaling.book import (
    DIMENSION,
    NAMESPACE,
    Activity,
    Book,
    Target,
    check_kind,
    listed,
)
from deployments.local.endpoint_service.scaling.scaler import Scaler
from deployments.local.endpoint_service.state import ACCOUNT, State
from deployments.local.endpoint_service.wire import AwsError, Json, epoch, invalid

_ROLE = (
    f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
    "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
)
_RUNNING = {"DynamicScalingInSuspended": False, "DynamicScalingOutSuspended": False, "ScheduledScalingSuspended": False}
PAGE = 50


class Targets:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, book: Book, scaler: Scaler, state: State, clock: Clock) -> None:
        self._book = book
        self._scaler = scaler
        self._state = state
        self._clock = clock
        self.operations: dict[str, Callable[[Json], Json]] = {
            "RegisterScalableTarget": self.register,
            "DescribeScalableTargets": self.describe,
            "DeregisterScalableTarget": self.deregister,
            "DescribeScalingActivities": self.activities,
            "TagResource": self.tag,
            "UntagResource": self.untag,
            "ListTagsForResource": self.tags,
        }

    def register(self, request: Json) -> Json:
        endpoint_name, variant = check_kind(request)
        self._scaler.forget_deleted()
        endpoint = self._state.endpoint(endpoint_name)
        fleet = endpoint.blue or endpoint.green
        if fleet is None or variant not in fleet.production:
            raise invalid(f'Could not find variant "{variant}" of endpoint "{endpoint.arn}".')
        resource = request["ResourceId"]
        known = self._book.targets.get(resource)
        low = request.get("MinCapacity", known.low if known else None)
        high = request.get("MaxCapacity", known.high if known else None)
        _bounds(low, high)
        assert low is not None and high is not None
        suspended = {**(known.suspended if known else _RUNNING), **request.get("SuspendedState", {})}
        if known:
            if request.get("Tags"):
                raise invalid("Tags can only be given to a new scalable target; use TagResource for this one.")
            known.low, known.high, known.suspended = low, high, suspended
            known.role = request.get("RoleARN", known.role)
            target = known
        else:
            name, role = uuid.uuid4().hex, request.get("RoleARN", _ROLE)
            target = Target(resource, name, self._clock.now(), low, high, role, suspended, request.get("Tags", {}))
            self._book.targets[resource] = target
        self._scaler.into_bounds(target)
        return {"ScalableTargetARN": self._book.target_arn(target)}

    def describe(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        found = listed(list(self._book.targets.values()), request)
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", PAGE))
        return {"ScalableTargets": [self._shown(target) for target in items]} | token

    def _shown(self, target: Target) -> Json:
        return {
            "ServiceNamespace": NAMESPACE,
            "ResourceId": target.resource,
            "ScalableDimension": DIMENSION,
            "MinCapacity": target.low,
            "MaxCapacity": target.high,
            "RoleARN": target.role,
            "CreationTime": epoch(target.created),
            "SuspendedState": target.suspended,
            "ScalableTargetARN": self._book.target_arn(target),
        }

    def deregister(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        self._scaler.deregister(self._book.target(request, "found for"))
        return {}

    def activities(self, request: Json) -> Json:
        self._scaler.tick()
        found = [
            activity
            for activity in listed(list(self._book.activities), request)
            if request.get("IncludeNotScaledActivities") or not activity.reasons
        ]
        items, token = page(found[::-1], request.get("NextToken"), request.get("MaxResults", PAGE))
        return {"ScalingActivities": [_activity(activity) for activity in items]} | token

    def tag(self, request: Json) -> Json:
        target = self._by_arn(request["ResourceARN"])
        merged = target.tags | request["Tags"]
        if len(merged) > 50:
            raise AwsError("TooManyTagsException", f"{len(merged)} tags: a scalable target has at most 50.")
        target.tags = merged
        return {}

    def untag(self, request: Json) -> Json:
        target = self._by_arn(request["ResourceARN"])
        target.tags = {key: value for key, value in target.tags.items() if key not in request["TagKeys"]}
        return {}

    def tags(self, request: Json) -> Json:
        return {"Tags": self._by_arn(request["ResourceARN"]).tags}

    def _by_arn(self, arn: str) -> Target:
        for target in self._book.targets.values():
            if self._book.target_arn(target) == arn:
                return target
        raise AwsError("ResourceNotFoundException", f"The specified resource doesn't exist: {arn}.")


def _bounds(low: int | None, high: int | None) -> None:
    if low is None or high is None:
        raise invalid("MinCapacity and MaxCapacity must be specified for a new scalable target.")
    if low < 1:
        raise invalid(f"Minimum capacity of a variant must be at least 1, not {low}.")
    if low > high:
        raise invalid(f"Maximum capacity cannot be less than minimum capacity: {high} is less than {low}.")


def _activity(activity: Activity) -> Json:
    shown: Json = {
        "ActivityId": activity.id,
        "ServiceNamespace": NAMESPACE,
        "ResourceId": activity.resource,
        "ScalableDimension": DIMENSION,
        "Description": activity.description,
        "Cause": activity.cause,
        "StartTime": epoch(activity.started),
        "StatusCode": activity.status,
    }
    if activity.ended is not None:
        shown["EndTime"] = epoch(activity.ended)
    if activity.message:
        shown["StatusMessage"] = activity.message
    return shown | ({"NotScaledReasons": activity.reasons} if activity.reasons else {})
