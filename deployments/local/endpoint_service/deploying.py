"""Which deployment an update is, whether it may begin, and how many instances it takes."""

from __future__ import annotations

from collections.abc import Coroutine

from deployments.local.endpoint_service import rules
from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.fleets import Fleet
from deployments.local.endpoint_service.guard import Guard
from deployments.local.endpoint_service.rolling import Rolling
from deployments.local.endpoint_service.rollout import Rollout
from deployments.local.endpoint_service.starting import Tools
from deployments.local.endpoint_service.state import Endpoint, EndpointConfig, State
from deployments.local.endpoint_service.wire import AwsError, Json, invalid


class Deployments:
    """Rules and work of a DeploymentConfig."""

    def __init__(self, state: State, alarms: AlarmBook, tools: Tools) -> None:
        self._state = state
        self._alarms = alarms
        self._tools = tools

    def check(self, deployment: Json, config: EndpointConfig, endpoint: Endpoint | None = None) -> None:
        """Refuse what AWS refuses. ``endpoint``: the one that is updated."""
        counts = {spec["VariantName"]: spec["InitialInstanceCount"] for spec in config.variants}
        rules.deployment(deployment, counts)
        running = endpoint.blue if endpoint else None
        if running:
            rules.same_variants(running.production, config.variant_names)
        if deployment.get("RollingUpdatePolicy"):
            rules.rolling(config, running.config if running else None)
            if endpoint and endpoint.mixed:
                raise invalid(
                    f'Endpoint "{endpoint.arn}" is {endpoint.status}: a rolling deployment cannot start from two '
                    "fleets. Update it with a blue/green policy, or with none."
                )
        alarms = (deployment.get("AutoRollbackConfiguration") or {}).get("Alarms", [])
        if unknown := self._alarms.unknown([alarm["AlarmName"] for alarm in alarms if "AlarmName" in alarm]):
            raise invalid(f"CloudWatch alarm(s) of AutoRollbackConfiguration not found: {', '.join(unknown)}.")

    def work(self, endpoint: Endpoint, fleet: Fleet, deployment: Json | None) -> Coroutine[None, None, None]:
        """The deployment of ``fleet``, to be run as the endpoint's job."""
        clock = self._tools.clock
        guard = Guard(endpoint, fleet, deployment, clock, self._alarms, self._tools.faults)
        if policy := (deployment or {}).get("RollingUpdatePolicy"):
            endpoint.rolling = self.extra(endpoint, fleet, deployment)
            return Rolling(endpoint, fleet, policy, clock, guard).run()
        return Rollout(endpoint, fleet, deployment, clock, guard).run()

    def extra(self, endpoint: Endpoint, fleet: Fleet, deployment: Json | None) -> int:
        """Instances that the deployment needs beyond those that the endpoint has."""
        new = sum(variant.desired for variant in fleet.variants.values())
        policy = (deployment or {}).get("RollingUpdatePolicy")
        if not policy or endpoint.blue is None:
            return new
        old = sum(variant.desired for variant in endpoint.blue.variants.values())
        return rules.instances_of(policy["MaximumBatchSize"], new) + max(0, new - old)

    def quota(self, more: int) -> None:
        quota(self._state, self._tools, more, "endpoint usage")


def quota(state: State, tools: Tools, more: int, usage: str) -> None:
    """Every instance is a process here, so their number has a limit as on AWS; the message is AWS's."""
    used = state.instances
    if used + more > tools.max_instances:
        raise AwsError(
            "ResourceLimitExceeded",
            f"The account-level service limit 'instances for {usage}' is "
            f"{tools.max_instances} Instances, with current utilization of {used} Instances and a request "
            f"delta of {more} Instances. Start the endpoint service with a larger --max-instances to raise it.",
        )
