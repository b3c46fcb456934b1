"""Autoscaling of endpoints: put there, kept through updates, held in a trial, taken away.

What an update may do to a variant that scales, from "Update endpoints that use auto scaling" in the SageMaker developer
guide: another model is allowed, and nothing scales meanwhile; UpdateEndpoint fails where it would change the variant's
instance type or remove the variant, so that target is deregistered first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters import sagemaker_cleanup
from tasks.adapters.aws_connection import Connection
from tasks.adapters.ledger import Ledger
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.sagemaker_names import CHALLENGER, VARIANT, is_name_of
from tasks.adapters.scaling_overview import SERVICE, known_parts, scalable_targets, tracked
from tasks.adapters.scaling_requests import (
    HELD,
    RUNNING,
    Policy,
    policies,
    scalable_target,
    scheduled_actions,
    where,
)
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan


class Scaler:
    """Scalable targets of one connection's endpoints."""

    def __init__(self, aws: Connection, ledger: Ledger) -> None:
        self._aws, self._ledger = aws, ledger

    def require_free(self, plan: ReleasePlan) -> None:
        """Nobody else's policy tracks the same metric: Application Auto Scaling allows one.

        Raises:
            RefusedRequest: with the policy's name.
        """
        wanted = [spec for policy in policies(plan) if (spec := tracked(policy.request))]
        if not wanted:
            return
        for known in known_parts(self._aws, "DescribeScalingPolicies", "ScalingPolicies", plan.endpoint, VARIANT):
            name = known["PolicyName"]
            if (spec := tracked(known)) and spec in wanted and not is_name_of(plan.endpoint, name):
                raise RefusedRequest(
                    "another policy tracks this metric already", observed=f"policy {name} on {plan.endpoint}",
                    limit="one target tracking policy a metric",
                    remedy="delete that policy, or set plan.scaling.kind to none and keep it",
                )  # fmt: skip

    def apply(self, plan: ReleasePlan) -> None:
        """Make the endpoint scale as ``plan`` says; what an earlier plan of Slimline's made goes. Asked again it
        changes nothing.
        """
        if plan.scaling.kind == "off":
            self.remove(plan.endpoint)
        if not plan.scaling.acts:
            return
        self._register(plan, VARIANT, scalable_target(plan))
        actions = scheduled_actions(plan)
        for action in actions:
            self._aws.call(SERVICE, "PutScheduledAction", **action)
        names = {action["ScheduledActionName"] for action in actions}
        for known in known_parts(self._aws, "DescribeScheduledActions", "ScheduledActions", plan.endpoint, VARIANT):
            if is_name_of(plan.endpoint, known["ScheduledActionName"]) and known["ScheduledActionName"] not in names:
                self._delete(
                    "DeleteScheduledAction", ScheduledActionName=known["ScheduledActionName"],
                    **where(plan.endpoint, VARIANT, known["ScalableDimension"]),
                )  # fmt: skip

    def _register(self, plan: ReleasePlan, variant: str, target: Mapping[str, Any]) -> None:
        """The target and the plan's policies on it; policies of an earlier plan go."""
        self._ledger.creating("scalable-target", target["ResourceId"])
        self._aws.call(SERVICE, "RegisterScalableTarget", **target)
        wanted = policies(plan, variant)
        known = {
            each["PolicyName"]: each
            for each in known_parts(self._aws, "DescribeScalingPolicies", "ScalingPolicies", plan.endpoint, variant)
        }
        for policy in wanted:
            self._put(policy, known.get(policy.request["PolicyName"]))
        names = {policy.request["PolicyName"] for policy in wanted}
        for name, each in known.items():
            if is_name_of(plan.endpoint, name) and name not in names:
                self._delete(
                    "DeleteScalingPolicy", PolicyName=name, **where(plan.endpoint, variant, each["ScalableDimension"])
                )
                self._forget_alarms(plan.endpoint, [each])

    def _put(self, policy: Policy, known: Mapping[str, Any] | None) -> None:
        # Its name is its content: one that is there is not put again, which would give its alarms a new beginning.
        if policy.alarm is None and known is not None:
            return
        made = self._aws.call(SERVICE, "PutScalingPolicy", **policy.request)
        if policy.alarm is not None:
            self._ledger.creating("scaling-alarm", policy.alarm["AlarmName"])
            self._aws.call("cloudwatch", "PutMetricAlarm", **policy.alarm, AlarmActions=[made["PolicyARN"]])

    def remove(self, endpoint: str, variants: Iterable[str] = (VARIANT, CHALLENGER)) -> list[str]:
        """Deregister: their policies, target tracking's alarms and schedules go along, and here the alarms that
        Slimline made. Absent already is well. Returns the variants that were registered.
        """
        gone = []
        for target in scalable_targets(self._aws, endpoint):
            variant = target["ResourceId"].rpartition("/")[2]
            if variant not in variants:
                continue
            known = known_parts(self._aws, "DescribeScalingPolicies", "ScalingPolicies", endpoint, variant)
            self._delete("DeregisterScalableTarget", **where(endpoint, variant, target["ScalableDimension"]))
            self._forget_alarms(endpoint, known)
            self._ledger.deleted("scalable-target", target["ResourceId"])
            gone.append(variant)
        return gone

    def require_kept(self, plan: ReleasePlan, config: str) -> None:
        """Refuse a release that would take autoscaling away and does not say what comes after.

        Raises:
            RefusedRequest: the instance type changes, and the plan has no autoscaling of its own.
        """
        if plan.scaling.kind != "none" or not scalable_targets(self._aws, plan.endpoint):
            return
        now = self._variants(config).get(VARIANT, "")
        if now != plan.instance_type:
            raise RefusedRequest(
                "the endpoint is autoscaled, and SageMaker refuses another instance type until that is deregistered",
                observed=f"{plan.endpoint} runs on {now}, plan.instance_type = {plan.instance_type}",
                limit="the same instance type, or a plan that says how the new one scales",
                remedy="set plan.scaling (it is put there after the release), or plan.scaling.kind to off",
            )

    def make_way(self, endpoint: str, serving: str, wanted: str) -> None:
        """Before UpdateEndpoint from config ``serving`` to ``wanted``: deregister what SageMaker refuses it for."""
        targets = {target["ResourceId"].rpartition("/")[2] for target in scalable_targets(self._aws, endpoint)}
        if not targets:
            return
        before, after = self._variants(serving), self._variants(wanted)
        refused = [variant for variant in targets if before.get(variant) != after.get(variant)]
        if refused:
            self.remove(endpoint, refused)

    def hold(self, endpoint: str) -> None:
        """For a trial: traffic moves away from the old version, which must not lose instances for that."""
        self._suspend(endpoint, HELD)

    def resume(self, endpoint: str) -> None:
        """After a trial: what ``hold`` has held scales again."""
        for target in scalable_targets(self._aws, endpoint):
            if target.get("SuspendedState") == HELD:
                self._suspend(endpoint, RUNNING)

    def _suspend(self, endpoint: str, state: Mapping[str, bool]) -> None:
        for target in scalable_targets(self._aws, endpoint):
            if target["ResourceId"] == where(endpoint)["ResourceId"]:
                place = where(endpoint, VARIANT, target["ScalableDimension"])
                self._aws.call(SERVICE, "RegisterScalableTarget", **place, SuspendedState=dict(state))

    def join(self, plan: ReleasePlan, instances: int) -> None:
        """The challenger of a trial grows with its load too, by the plan's policies; it does not shrink below
        ``instances``. Asked again it changes nothing.
        """
        resources = {target["ResourceId"] for target in scalable_targets(self._aws, plan.endpoint)}
        target = scalable_target(plan, CHALLENGER, held=True)
        if not plan.scaling.acts or not resources or target["ResourceId"] in resources:
            return
        high = max(plan.scaling.max_instances, instances)
        self._register(plan, CHALLENGER, {**target, "MinCapacity": instances, "MaxCapacity": high})

    def level(self, endpoint: str, counts: Mapping[str, int]) -> None:
        """Before a trial's challenger takes everything: the variant whose count is kept has at least as many instances.

        ``counts``: instances by variant. Does not wait.
        """
        if counts.get(CHALLENGER, 0) > counts.get(VARIANT, 0) > 0:
            change = {"VariantName": VARIANT, "DesiredInstanceCount": counts[CHALLENGER]}
            self._aws.call(
                "sagemaker", "UpdateEndpointWeightsAndCapacities",
                EndpointName=endpoint, DesiredWeightsAndCapacities=[change],
            )  # fmt: skip

    def _variants(self, config: str) -> dict[str, str]:
        """Instance type by variant; of a serverless variant none."""
        seen = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)
        return {each["VariantName"]: each.get("InstanceType", "") for each in seen["ProductionVariants"]}

    def _delete(self, operation: str, **request: Any) -> None:
        try:
            self._aws.call(SERVICE, operation, **request)
        except ClientError as error:
            if not is_absent(error):
                raise

    def _forget_alarms(self, endpoint: str, known: Iterable[Mapping[str, Any]]) -> None:
        names = [alarm["AlarmName"] for policy in known for alarm in policy.get("Alarms", ())]
        own = [name for name in names if is_name_of(endpoint, name)]
        sagemaker_cleanup.delete_alarms(self._aws, own)
        for name in own:
            self._ledger.deleted("scaling-alarm", name)
