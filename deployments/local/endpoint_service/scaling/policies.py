"""Operations on scaling policies and scheduled actions; target tracking's two alarms."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable

from deployments.local.endpoint_service.alarms import ACTIONS, AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.metric_queries import check, metric_name
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.scaling.book import (
    DIMENSION,
    NAMESPACE,
    Book,
    Policy,
    Scheduled,
    Target,
    check_kind,
    listed,
    not_found,
)
from deployments.local.endpoint_service.scaling.decisions import check_steps
from deployments.local.endpoint_service.scaling.scaler import Scaler
from deployments.local.endpoint_service.scaling.targets import PAGE
from deployments.local.endpoint_service.wire import AwsError, Json, epoch, invalid, not_implemented

# Predefined metrics of a variant: CloudWatch's metric, its statistic, and the high alarm's period in seconds.
_PREDEFINED = {
    "SageMakerVariantInvocationsPerInstance": ("InvocationsPerInstance", "Sum", 60),
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": ("ConcurrentRequestsPerModel", "Average", 10),
}
_HIGH_PERIODS, _LOW_PERIODS = 3, 15
_LOW_SHARE = 0.9  # of the target: below it the low alarm breaches
_KINDS = {
    "StepScaling": "StepScalingPolicyConfiguration",
    "TargetTrackingScaling": "TargetTrackingScalingPolicyConfiguration",
}


class Policies:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, book: Book, scaler: Scaler, alarms: AlarmBook, arn: Callable[[str], str], clock: Clock) -> None:
        self._book = book
        self._scaler = scaler
        self._alarms = alarms
        self._arn = arn  # "alarm:name" -> the ARN
        self._clock = clock
        self.operations: dict[str, Callable[[Json], Json]] = {
            "PutScalingPolicy": self.put_policy,
            "DescribeScalingPolicies": self.describe_policies,
            "DeleteScalingPolicy": self.delete_policy,
            "PutScheduledAction": self.put_action,
            "DescribeScheduledActions": self.describe_actions,
            "DeleteScheduledAction": self.delete_action,
        }

    def put_policy(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        target, name = self._book.target(request), request["PolicyName"]
        known = self._book.policies.get((target.resource, name))
        kind = request.get("PolicyType", known.kind if known else "StepScaling")
        if kind not in _KINDS:
            raise not_implemented(f"PutScalingPolicy: PolicyType {kind}", "StepScaling and TargetTrackingScaling are.")
        config = request.get(_KINDS[kind])
        if not config or any(request.get(other) for other in _KINDS.values() if other != _KINDS[kind]):
            raise invalid(f"{_KINDS[kind]} and no other configuration must be specified for policy type {kind}.")
        if known and known.kind != kind:
            raise invalid(f"The policy type of {name} is {known.kind} and cannot be changed to {kind}.")
        if kind == "StepScaling":
            check_steps(config)
        else:
            self._check_tracking(target, name, config)
        arn = self._book.arn("scalingPolicy", target.resource, f"policyName/{name}")
        policy = known or Policy(name, arn, target.resource, self._clock.now(), kind, config)
        policy.config = config
        self._book.policies[target.resource, name] = policy
        if kind == "TargetTrackingScaling":
            self._track(target, policy)
        return {"PolicyARN": policy.arn, "Alarms": self._made(policy)}

    def _check_tracking(self, target: Target, name: str, config: Json) -> None:
        metrics = [key for key in ("PredefinedMetricSpecification", "CustomizedMetricSpecification") if config.get(key)]
        if len(metrics) != 1:
            raise invalid("Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification is needed.")
        if not (math.isfinite(config["TargetValue"]) and config["TargetValue"] > 0):
            raise invalid(f"TargetValue must be greater than 0, not {config['TargetValue']}.")
        for member in ("ScaleOutCooldown", "ScaleInCooldown"):
            if config.get(member, 0) < 0:
                raise invalid(f"{member} must be at least 0 seconds, not {config[member]}.")
        if predefined := config.get("PredefinedMetricSpecification"):
            _check_predefined(predefined["PredefinedMetricType"])
        elif config["CustomizedMetricSpecification"].get("Metrics"):
            _check_math(config["CustomizedMetricSpecification"])
        elif missing := [
            key
            for key in ("MetricName", "Namespace", "Statistic")
            if not config["CustomizedMetricSpecification"].get(key)
        ]:
            raise invalid(f"{missing[0]} must be specified in CustomizedMetricSpecification.")
        for other in self._book.of(target.resource):
            if other.name != name and other.config.get(metrics[0]) == config[metrics[0]]:
                raise invalid("Only one TargetTrackingScaling policy for a given metric specification is allowed.")

    def _track(self, target: Target, policy: Policy) -> None:
        """Make the policy's alarms anew: high, and low where it may scale in."""
        for name in policy.alarms:
            self._alarms.alarms.pop(name, None)
        metric, period = _metric(target, policy.config)
        goal = policy.config["TargetValue"]
        wanted = [("High", "GreaterThanThreshold", goal, period, _HIGH_PERIODS)]
        if not policy.config.get("DisableScaleIn"):
            wanted.append(("Low", "LessThanThreshold", goal * _LOW_SHARE, 60, _LOW_PERIODS))
        policy.alarms = []
        for side, comparison, threshold, seconds, periods in wanted:
            name = f"TargetTracking-{target.resource}-Alarm{side}-{uuid.uuid4()}"
            request = metric | {
                "AlarmName": name,
                "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy.arn}.",
                "AlarmActions": [policy.arn],
                "Period": seconds,
                "EvaluationPeriods": periods,
                "Threshold": threshold,
                "ComparisonOperator": comparison,
            }
            if "Metrics" in metric:  # the queries say their period
                del request["Period"]
            key = metric_name(metric.get("Namespace", ""), metric)
            self._alarms.put(name, self._arn(f"alarm:{name}"), request, key, self._clock.now())
            policy.alarms.append(name)

    def describe_policies(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        names = request.get("PolicyNames")
        found = [
            each for each in listed(list(self._book.policies.values()), request) if not names or each.name in names
        ]
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", PAGE))
        return {"ScalingPolicies": [self._shown(policy) for policy in items]} | token

    def _shown(self, policy: Policy) -> Json:
        return {
            "PolicyARN": policy.arn,
            "PolicyName": policy.name,
            "ServiceNamespace": NAMESPACE,
            "ResourceId": policy.resource,
            "ScalableDimension": DIMENSION,
            "PolicyType": policy.kind,
            _KINDS[policy.kind]: policy.config,
            "Alarms": self._made(policy),
            "CreationTime": epoch(policy.created),
        }

    def _made(self, policy: Policy) -> list[Json]:
        """The alarms whose actions name the policy."""
        return [
            {"AlarmName": alarm.name, "AlarmARN": alarm.arn}
            for alarm in self._alarms.alarms.values()
            if any(policy.arn in alarm.request.get(kind, []) for kind in ACTIONS.values())
        ]

    def delete_policy(self, request: Json) -> Json:
        check_kind(request)
        policy = self._book.policies.get((request["ResourceId"], request["PolicyName"]))
        if policy is None:
            raise not_found("scaling policy", "found for", request, f"policy name: {request['PolicyName']}")
        self._scaler.drop(policy)
        return {}

    def put_action(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        target, name, now = self._book.target(request), request["ScheduledActionName"], self._clock.now()
        known = self._book.actions.get((target.resource, name))
        merged = (known.request if known else {}) | request
        if not merged.get("Schedule"):
            raise invalid("Schedule must be specified for a new scheduled action.")
        change = merged.get("ScalableTargetAction") or {}
        low, high = change.get("MinCapacity"), change.get("MaxCapacity")
        if low is None and high is None:
            raise invalid("At least one of MinCapacity and MaxCapacity must be specified in ScalableTargetAction.")
        if low is not None and low < 1:
            raise invalid(f"Minimum capacity of a variant must be at least 1, not {low}.")
        if low is not None and high is not None and low > high:
            raise invalid(f"Maximum capacity cannot be less than minimum capacity: {high} is less than {low}.")
        created = known.created if known else now
        when = self._scaler.first_time(merged, merged.get("Timezone", "Etc/UTC"), created, now)
        if when is None:
            raise invalid(f"Schedule expression {merged['Schedule']} has no time in the future.")
        arn = self._book.arn("scheduledAction", target.resource, f"scheduledActionName/{name}")
        action = known or Scheduled(name, arn, target.resource, now, merged, when)
        action.request, action.next = merged, when
        self._book.actions[target.resource, name] = action
        return {}

    def describe_actions(self, request: Json) -> Json:
        self._scaler.forget_deleted()
        names = request.get("ScheduledActionNames")
        found = [each for each in listed(list(self._book.actions.values()), request) if not names or each.name in names]
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", PAGE))
        shown = [
            {**action.request, "ScheduledActionARN": action.arn, "CreationTime": epoch(action.created)}
            for action in items
        ]
        return {"ScheduledActions": shown} | token

    def delete_action(self, request: Json) -> Json:
        check_kind(request)
        if self._book.actions.pop((request["ResourceId"], request["ScheduledActionName"]), None) is None:
            name = f"scheduled action name: {request['ScheduledActionName']}"
            raise not_found("scheduled action", "found for", request, name)
        return {}


def _check_predefined(kind: str) -> None:
    if kind.startswith("SageMaker") and kind not in _PREDEFINED:
        raise not_implemented(f"PutScalingPolicy: PredefinedMetricType {kind}", f"{', '.join(_PREDEFINED)} are.")
    if kind not in _PREDEFINED:
        raise invalid(f"Predefined metric type {kind} is not supported for scalable dimension {DIMENSION}.")


def _check_math(custom: Json) -> None:
    """Metric math in the place of one metric: the queries fit together, and one of them is tracked."""
    if one := [key for key in ("MetricName", "Namespace", "Dimensions", "Statistic", "Unit") if custom.get(key)]:
        raise invalid(f"{one[0]} and Metrics must not be specified together in CustomizedMetricSpecification.")
    try:
        returned = check(_queries(custom)).returned
    except AwsError as error:
        raise error if error.status == 501 else invalid(error.message) from error
    if len(returned) != 1:
        raise invalid(f"Exactly one element of Metrics must return data, not {len(returned)}.")


def _queries(custom: Json) -> list[Json]:
    """As PutMetricAlarm takes them. Target tracking looks at minutes, and its metrics name no period."""
    return [
        query | ({"MetricStat": {"Period": 60, **query["MetricStat"]}} if "MetricStat" in query else {})
        for query in custom["Metrics"]
    ]


def _metric(target: Target, config: Json) -> tuple[Json, int]:
    """The alarms' metric, as PutMetricAlarm names it, and the high alarm's period."""
    if custom := config.get("CustomizedMetricSpecification"):
        if custom.get("Metrics"):
            return {"Metrics": _queries(custom)}, 60
        members = ("MetricName", "Namespace", "Dimensions", "Statistic", "Unit")
        return {key: custom[key] for key in members if key in custom}, 60
    name, statistic, period = _PREDEFINED[config["PredefinedMetricSpecification"]["PredefinedMetricType"]]
    dims = {"EndpointName": target.endpoint, "VariantName": target.variant}
    return {
        "Namespace": "AWS/SageMaker",
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dims.items()],
        "Statistic": statistic,
    }, period
