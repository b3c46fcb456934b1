"""The SageMaker operations on endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from deployments.local.endpoint_service.alarms import AlarmBook
from deployments.local.endpoint_service.control import listed
from deployments.local.endpoint_service.deploying import Deployments
from deployments.local.endpoint_service.fleets import Fleet, FleetFailed
from deployments.local.endpoint_service.instance_metrics import InstanceMetrics
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.shown import endpoint_description
from deployments.local.endpoint_service.snapshot import Saved
from deployments.local.endpoint_service.starting import Tools
from deployments.local.endpoint_service.state import (
    DELETING,
    FAILED,
    IN_SERVICE,
    SYSTEM_UPDATING,
    UPDATE_ROLLBACK_FAILED,
    UPDATING,
    Endpoint,
    EndpointConfig,
    State,
)
from deployments.local.endpoint_service.wire import Json, epoch, invalid, not_implemented

log = logging.getLogger("slimline.endpoints")


class Endpoints:
    """One method an operation. Long work runs as one task an endpoint (``Endpoint.job``)."""

    def __init__(self, state: State, alarms: AlarmBook, tools: Tools) -> None:
        self._state = state
        self._deployments = Deployments(state, alarms, tools)
        self._tools = tools
        self._clock = tools.clock
        self._instances = InstanceMetrics(tools.metrics, tools.clock)
        self.operations: dict[str, Callable[[Json], Json]] = {
            "CreateEndpoint": self.create_endpoint,
            "DescribeEndpoint": self.describe_endpoint,
            "ListEndpoints": self.list_endpoints,
            "DeleteEndpoint": self.delete_endpoint,
            "UpdateEndpoint": self.update_endpoint,
            "UpdateEndpointWeightsAndCapacities": self.update_weights,
        }
        # Asked before an update; raises where what is registered for autoscaling forbids it.
        self.may_update: Callable[[Endpoint, EndpointConfig], None] = lambda endpoint, config: None

    def create_endpoint(self, request: Json) -> Json:
        name = request["EndpointName"]
        arn = self._state.arn("endpoint", name)
        if name in self._state.endpoints:
            raise invalid(f'Cannot create already existing endpoint "{arn}".')
        config = self._state.config(request["EndpointConfigName"])
        if deployment := request.get("DeploymentConfig"):
            self._deployments.check(deployment, config)
        fleet = self._fleet(name, config)
        self._deployments.quota(sum(variant.desired for variant in fleet.variants.values()))
        self._state.set_tags(arn, request.get("Tags", []))
        now = self._clock.now()
        endpoint = Endpoint(name, arn, config.name, now, now, deployment=deployment)
        self._state.endpoints[name] = endpoint
        endpoint.green = fleet  # seen while it starts; it takes no traffic
        self._run(endpoint, self._create(endpoint, fleet))
        return {"EndpointArn": arn}

    async def _create(self, endpoint: Endpoint, fleet: Fleet) -> None:
        endpoint.note(self._clock.now(), f"creating with {fleet.config.name}")
        try:
            await fleet.start()
        except FleetFailed as error:
            endpoint.status, endpoint.failure = FAILED, str(error)[:1024]
        else:
            fleet.activate()
            endpoint.blue, endpoint.status = fleet, IN_SERVICE
        endpoint.green = None
        endpoint.modified = self._clock.now()
        endpoint.note(endpoint.modified, f"{endpoint.status} {endpoint.failure or ''}".strip())

    def describe_endpoint(self, request: Json) -> Json:
        return endpoint_description(self._state.endpoint(request["EndpointName"]))

    def list_endpoints(self, request: Json) -> Json:
        found = listed(self._state.endpoints.values(), request)
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", 10))
        shown = [
            {
                "EndpointName": e.name,
                "EndpointArn": e.arn,
                "CreationTime": epoch(e.created),
                "LastModifiedTime": epoch(e.modified),
                "EndpointStatus": e.status,
            }
            for e in items
        ]
        return {"Endpoints": shown} | token

    def delete_endpoint(self, request: Json) -> Json:
        endpoint = self._idle(request["EndpointName"])
        endpoint.status, endpoint.modified = DELETING, self._clock.now()
        self._run(endpoint, self._delete(endpoint))
        return {}

    async def _delete(self, endpoint: Endpoint) -> None:
        await asyncio.gather(*(fleet.retire() for fleet in endpoint.fleets))
        self._state.endpoints.pop(endpoint.name, None)
        self._state.tags.pop(endpoint.arn, None)

    def update_endpoint(self, request: Json) -> Json:
        endpoint = self._ready(request["EndpointName"], UPDATE_ROLLBACK_FAILED)
        config = self._state.config(request["EndpointConfigName"])
        self._state.config(endpoint.config)  # AWS needs the old one too: rolling back would need it
        deployment = request.get("DeploymentConfig")
        if request.get("RetainDeploymentConfig"):
            if deployment:
                raise invalid("DeploymentConfig must not be specified when RetainDeploymentConfig is true.")
            deployment = endpoint.deployment
        config = self._retained(endpoint, config, request)
        self.may_update(endpoint, config)
        assert endpoint.blue is not None
        if endpoint.blue.config.asynchronous != config.asynchronous:
            raise not_implemented("UpdateEndpoint: between a real-time and an asynchronous configuration")
        if deployment:
            self._deployments.check(deployment, config, endpoint)
        fleet = self._fleet(endpoint.name, config)
        self._deployments.quota(self._deployments.extra(endpoint, fleet, deployment))
        endpoint.deployment, endpoint.green = deployment, fleet  # it takes no traffic before it is healthy
        endpoint.status, endpoint.modified = UPDATING, self._clock.now()
        endpoint.note(endpoint.modified, f"updating from {endpoint.config} to {config.name}")
        self._run(endpoint, self._deployments.work(endpoint, fleet, deployment))
        return {"EndpointArn": endpoint.arn}

    def _retained(self, endpoint: Endpoint, config: EndpointConfig, request: Json) -> EndpointConfig:
        """RetainAllVariantProperties: weights and instance counts of the running variants go into the new fleet."""
        excluded = {each["VariantPropertyType"] for each in request.get("ExcludeRetainedVariantProperties", [])}
        if not request.get("RetainAllVariantProperties"):
            return config

        def kept(spec: Json) -> Json:
            running = endpoint.blue and endpoint.blue.variants.get(spec["VariantName"])
            found: Json = {}
            if running and "DesiredInstanceCount" not in excluded:
                found["InitialInstanceCount"] = running.desired
            if running and "DesiredWeight" not in excluded:
                found["InitialVariantWeight"] = running.weight
            return spec | found

        return config.with_variants(kept)

    def update_weights(self, request: Json) -> Json:
        endpoint = self._ready(request["EndpointName"])
        assert endpoint.blue is not None
        wanted = request["DesiredWeightsAndCapacities"]
        weights = {name: variant.weight for name, variant in endpoint.blue.variants.items()}
        for each in wanted:
            if each.get("ServerlessUpdateConfig"):
                raise not_implemented("UpdateEndpointWeightsAndCapacities: ServerlessUpdateConfig")
            if each["VariantName"] not in weights:
                raise invalid(f"Variant {each['VariantName']} does not exist on endpoint {endpoint.name}.")
            if each.get("DesiredInstanceCount") == 0:
                raise invalid(f"DesiredInstanceCount of variant {each['VariantName']} must be at least 1.")
            weights[each["VariantName"]] = each.get("DesiredWeight", weights[each["VariantName"]])
        more = [
            each.get("DesiredInstanceCount", 0) - endpoint.blue.variants[each["VariantName"]].desired for each in wanted
        ]
        self._deployments.quota(sum(max(0, count) for count in more))
        if not sum(weights[name] for name in endpoint.blue.production):
            raise invalid("At least one production variant must have a weight greater than 0.")
        endpoint.status, endpoint.modified = UPDATING, self._clock.now()
        self._run(endpoint, self._reweigh(endpoint, endpoint.blue, wanted))
        return {"EndpointArn": endpoint.arn}

    async def _reweigh(self, endpoint: Endpoint, fleet: Fleet, wanted: list[Json]) -> None:
        for each in wanted:
            variant = fleet.variants[each["VariantName"]]
            if each.get("DesiredWeight") is not None:
                variant.weight = each["DesiredWeight"]
                endpoint.note(self._clock.now(), f"weight of {variant.name} is {variant.weight:g}")
            if each.get("DesiredInstanceCount") is not None:
                try:
                    await fleet.resize(variant.name, each["DesiredInstanceCount"])
                except FleetFailed as error:
                    variant.desired = len(variant.workers)
                    endpoint.note(self._clock.now(), f"{variant.name} keeps {variant.desired} instance(s): {error}")
                else:
                    endpoint.note(self._clock.now(), f"{variant.name} has {variant.desired} instance(s)")
        endpoint.status, endpoint.modified = IN_SERVICE, self._clock.now()

    def revive(self, saved: Saved) -> None:
        """Bring an endpoint back after a restart: its fleet, then the deployment that was under way."""
        self._run(saved.endpoint, self._revive(saved))

    async def _revive(self, saved: Saved) -> None:
        endpoint = saved.endpoint
        deploying = saved.deploying and Fleet(
            endpoint.name, saved.deploying.config, saved.deploying.models, self._tools
        )
        if saved.serving is None:
            if deploying:
                endpoint.green = deploying
                await self._create(endpoint, deploying)
            return
        endpoint.status = SYSTEM_UPDATING
        endpoint.note(self._clock.now(), f"the service has come back and starts {saved.serving.config.name}")
        fleet = Fleet(endpoint.name, saved.serving.config, saved.serving.models, self._tools)
        try:
            await fleet.start()
        except FleetFailed as error:
            endpoint.status, endpoint.failure = FAILED, str(error)[:1024]
            return
        fleet.activate()
        endpoint.blue, endpoint.status, endpoint.modified = fleet, IN_SERVICE, self._clock.now()
        endpoint.failure = None  # a rollback that had failed is finished now
        if deploying:
            endpoint.status = UPDATING
            endpoint.note(self._clock.now(), f"the deployment of {deploying.config.name} starts again")
            await self._deployments.work(endpoint, deploying, endpoint.deployment)

    def sample(self) -> None:
        """Write what is under way now, for metrics that are gauges."""
        fleets = [fleet for endpoint in self._state.endpoints.values() for fleet in endpoint.fleets]
        for fleet in fleets:
            fleet.sample()
        self._instances.sample(fleets)

    async def stop(self, grace: float) -> None:
        """End every job and every worker; the service is going away."""
        endpoints = list(self._state.endpoints.values())
        jobs = [endpoint.job for endpoint in endpoints if endpoint.job]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.gather(*(fleet.stop(grace) for endpoint in endpoints for fleet in endpoint.fleets))

    def _fleet(self, endpoint: str, config: EndpointConfig) -> Fleet:
        models = {spec["ModelName"]: self._state.model(spec["ModelName"]) for spec in config.all_variants}
        return Fleet(endpoint, config, models, self._tools)

    def _idle(self, name: str) -> Endpoint:
        endpoint = self._state.endpoint(name)
        if endpoint.busy:
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        return endpoint

    def _ready(self, name: str, *also: str) -> Endpoint:
        endpoint = self._idle(name)
        if endpoint.status not in (IN_SERVICE, *also):
            raise invalid(
                f'Endpoint "{endpoint.arn}" is {endpoint.status}: DeleteEndpoint is the only operation on it.'
            )
        return endpoint

    def _run(self, endpoint: Endpoint, work: Coroutine[None, None, None]) -> None:
        def ended(job: asyncio.Task[None]) -> None:
            if not job.cancelled() and (error := job.exception()):
                log.error("work on endpoint %s broke", endpoint.name, exc_info=error)
                endpoint.status, endpoint.failure = FAILED, f"Internal error of the endpoint service: {error!r}"[:1024]

        endpoint.job = asyncio.get_running_loop().create_task(work)
        endpoint.job.add_done_callback(ended)
