"""What changes instance counts: alarms that run policies, schedules that move bounds, and the activities that tell it.

"How cooldown periods work" in the Application Auto Scaling user guide: what a scale-out has added counts towards the
next one within its cooldown; a scale-in blocks further ones within its own, and a scale-out ends that.
"""

from __future__ import annotations

import logging

from deployments.local.endpoint_service.alarms import ALARM, Alarm, AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.endpoints import Endpoints
from deployments.local.endpoint_service.scaling.activities import Activities
from deployments.local.endpoint_service.scaling.book import (
    FAILED,
    IN_PROGRESS,
    SUCCESSFUL,
    Activity,
    Book,
    Policy,
    Scheduled,
    Target,
)
from deployments.local.endpoint_service.scaling.decisions import breach, stepped, tracked
from deployments.local.endpoint_service.scaling.schedules import next_time
from deployments.local.endpoint_service.state import DELETING, Endpoint, EndpointConfig, State
from deployments.local.endpoint_service.wire import Json, invalid, timestamp

log = logging.getLogger("slimline.scaling")

COOLDOWN = 300  # seconds, of a variant's policies that name none


class Scaler:
    """Runs policies and schedules on the variants of the service's endpoints."""

    def __init__(self, book: Book, state: State, endpoints: Endpoints, alarms: AlarmBook, clock: Clock) -> None:
        self._book = book
        self._state = state
        self._alarms = alarms
        self._clock = clock
        self._activities = Activities(book, state, endpoints, clock)
        alarms.listener = self.on_alarm
        endpoints.may_update = self.check_update

    def tick(self) -> None:
        """What time brings: the end of activities, schedules, moves that waited, targets whose endpoint is gone."""
        self.forget_deleted()
        for activity in self._book.activities:
            if activity.status == IN_PROGRESS:
                self._activities.follow(activity)
        for action in list(self._book.actions.values()):
            if action.next is not None and action.next <= self._clock.now():
                self._run(action)
        for target in self._book.targets.values():
            if target.waits:
                self.into_bounds(target)

    def forget_deleted(self) -> None:
        """A deleted endpoint takes its targets along."""
        for target in list(self._book.targets.values()):
            endpoint = self._state.endpoints.get(target.endpoint)
            if endpoint is None or endpoint.status == DELETING:
                self.deregister(target)

    def check_update(self, endpoint: Endpoint, config: EndpointConfig) -> None:
        """An update may change a scaled variant's model, but not its instance type, and must not remove it."""
        running = endpoint.blue.config.request["ProductionVariants"] if endpoint.blue else []
        before, after = (
            {each["VariantName"]: each.get("InstanceType") for each in variants}
            for variants in (running, config.request["ProductionVariants"])
        )
        for target in self._book.targets.values():
            if target.endpoint == endpoint.name and before.get(target.variant) != after.get(target.variant):
                raise invalid(
                    f'The variant "{target.variant}" of endpoint "{endpoint.arn}" is a scalable target. Deregister it '
                    "from Application Auto Scaling before it is removed or its instance type is changed."
                )

    def deregister(self, target: Target) -> None:
        """Forget a target with its policies, their alarms, and its scheduled actions."""
        del self._book.targets[target.resource]
        for policy in self._book.of(target.resource):
            self.drop(policy)
        for key in [key for key in self._book.actions if key[0] == target.resource]:
            del self._book.actions[key]

    def drop(self, policy: Policy) -> None:
        self._book.policies.pop((policy.resource, policy.name), None)
        for name in policy.alarms:
            self._alarms.alarms.pop(name, None)

    def into_bounds(self, target: Target) -> None:
        """Move the count between the target's bounds, at once or when the endpoint is InService."""
        variant = self._activities.variant(target)
        target.waits = variant is None
        if variant is None:
            return
        wanted = target.within(variant.desired)
        if wanted != variant.desired:
            which, bound = ("minimum", target.low) if wanted > variant.desired else ("maximum", target.high)
            self._activities.set_count(target, wanted, f"{which} capacity was set to {bound}")

    def on_alarm(self, arn: str, alarm: Alarm) -> None:
        """An alarm runs an action: a policy's ARN. Other ARNs are of policies that are gone."""
        policy = next((each for each in self._book.policies.values() if each.arn == arn), None)
        if policy is None:
            return
        target = self._book.targets[policy.resource]
        cause = f"monitor alarm {alarm.name} in state {alarm.state} triggered policy {policy.name}"
        if any(each.status == IN_PROGRESS and each.resource == target.resource for each in self._book.activities):
            return
        variant = self._activities.variant(target)
        if variant is None:
            self._activities.not_scaled(target, cause, {"Code": "TargetServicePutResourceAsUnscalable"})
            return
        if policy.kind == "StepScaling":
            self._step(target, policy, variant.desired, alarm, cause)
        elif not policy.config.get("DisableScaleIn") or alarm.name == policy.alarms[0]:
            self._track(target, policy, variant.desired, alarm, cause)

    def _step(self, target: Target, policy: Policy, current: int, alarm: Alarm, cause: str) -> None:
        distance = breach(policy.config, alarm.values, float(alarm.request["Threshold"]))
        wanted = stepped(policy.config, distance, current)
        if wanted is None:
            return
        if wanted > current:
            wanted = max(current, stepped(policy.config, distance, self._base(target, current)) or 0)
        cooldown = policy.config.get("Cooldown", COOLDOWN)
        self._scale(target, current, wanted, (cooldown, cooldown), cause)

    def _track(self, target: Target, policy: Policy, current: int, alarm: Alarm, cause: str) -> None:
        known = [value for value in alarm.values if value is not None]
        if not known:
            return
        goal = float(policy.config["TargetValue"])
        if alarm.name == policy.alarms[0]:
            wanted = max(current, tracked(known[-1], goal, self._base(target, current)))
        else:
            wanted = min(current, tracked(max(known), goal, current))
            others = [other for other in self._book.of(target.resource) if other is not policy]
            for other in others:  # all that may scale in must want to
                wanted = max(wanted, self._other_wants(other, current))
        cooldowns = policy.config.get("ScaleOutCooldown", COOLDOWN), policy.config.get("ScaleInCooldown", COOLDOWN)
        self._scale(target, current, wanted, cooldowns, cause, flapping=alarm.name != policy.alarms[0])

    def _other_wants(self, policy: Policy, current: int) -> int:
        """The least count that another target tracking policy allows; 0 where it does not scale in at all."""
        if policy.kind != "TargetTrackingScaling" or policy.config.get("DisableScaleIn"):
            return 0
        alarm = self._alarms.alarms.get(policy.alarms[-1])
        known = [value for value in alarm.values if value is not None] if alarm else []
        if alarm is None or alarm.state != ALARM or not known:
            return current
        return tracked(max(known), float(policy.config["TargetValue"]), current)

    def _base(self, target: Target, current: int) -> int:
        return target.out_base if self._clock.now() < target.out_until else current

    def _scale(
        self,
        target: Target,
        current: int,
        wanted: int,
        cooldowns: tuple[float, float],
        cause: str,
        flapping: bool = False,
    ) -> None:
        """Go to the wanted count within the bounds, unless a cooldown or a suspension holds it."""
        now, bounded = self._clock.now(), target.within(wanted)
        if bounded > current:
            if target.suspended.get("DynamicScalingOutSuspended"):
                return
            if now >= target.out_until:
                target.out_base = current
            if self._activities.set_count(target, bounded, cause):
                target.out_until, target.in_until = now + cooldowns[0], 0.0
        elif bounded < current:
            if target.suspended.get("DynamicScalingInSuspended") or now < target.in_until:
                return
            if self._activities.set_count(target, bounded, cause):
                target.in_until = now + cooldowns[1]
        elif now >= target.out_until:
            self._activities.not_scaled(target, cause, _reason(target, current, wanted, flapping))

    def _run(self, action: Scheduled) -> None:
        """A scheduled action's time has come: new bounds, and the count moved between them."""
        now, request = self._clock.now(), action.request
        zone = request.get("Timezone", "Etc/UTC")
        action.next = self.first_time(request, zone, action.created, now)
        target = self._book.targets[action.resource]
        if target.suspended.get("ScheduledScalingSuspended"):
            return
        change = request["ScalableTargetAction"]
        low, high = change.get("MinCapacity", target.low), change.get("MaxCapacity", target.high)
        said = f"min capacity to {low} and max capacity to {high}"
        cause = f"scheduled action name {action.name} was triggered"
        activity = Activity(target.resource, f"Setting {said}", cause, now, IN_PROGRESS)
        self._book.activities.append(activity)
        if low > high:
            why = "Maximum capacity cannot be less than minimum capacity"
            self._activities.end(activity, FAILED, f"Failed to set {said}. Reason: {why}")
            return
        target.low, target.high = low, high
        self._activities.end(activity, SUCCESSFUL, f"Successfully set {said}")
        self.into_bounds(target)

    def first_time(self, request: Json, zone: str, created: float, after: float) -> float | None:
        """When a schedule runs next, between its StartTime and EndTime."""
        start = timestamp(request["StartTime"]) if request.get("StartTime") else created
        found = next_time(request["Schedule"], zone, start, max(after, start - 1e-6))
        end = timestamp(request["EndTime"]) if request.get("EndTime") else None
        return None if found is not None and end is not None and found > end else found


def _reason(target: Target, current: int, wanted: int, flapping: bool) -> Json:
    if wanted > target.high:
        return {"Code": "AlreadyAtMaxCapacity", "MaxCapacity": target.high, "CurrentCapacity": current}
    if wanted < target.low:
        return {"Code": "AlreadyAtMinCapacity", "MinCapacity": target.low, "CurrentCapacity": current}
    code = "AutoScalingAnticipatedFlapping" if flapping else "AlreadyAtDesiredCapacity"
    return {"Code": code, "CurrentCapacity": current}
