"""What the service knows: models, endpoint configurations and endpoints; ``snapshot.py`` keeps it on disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deployments.local.endpoint_service.wire import Json, invalid

if TYPE_CHECKING:
    from deployments.local.endpoint_service.fleets import Fleet

ACCOUNT = "123456789012"  # moto's account: one account for everything here

CREATING, UPDATING, IN_SERVICE, DELETING, FAILED = "Creating", "Updating", "InService", "Deleting", "Failed"
UPDATE_ROLLBACK_FAILED = "UpdateRollbackFailed"  # both fleets serve; a blue/green update or a delete ends it
SYSTEM_UPDATING = "SystemUpdating"  # maintenance by AWS; here: the service has come back and starts model servers


@dataclass(frozen=True)
class Model:
    """CreateModel's request. ``container`` is its only container."""

    name: str
    arn: str
    created: float
    request: Json
    container: Json


@dataclass(frozen=True)
class EndpointConfig:
    """CreateEndpointConfig's request."""

    name: str
    arn: str
    created: float
    request: Json

    @property
    def variants(self) -> list[Json]:
        variants: list[Json] = self.request["ProductionVariants"]
        return variants

    @property
    def shadows(self) -> list[Json]:
        shadows: list[Json] = self.request.get("ShadowProductionVariants") or []
        return shadows

    @property
    def all_variants(self) -> list[Json]:
        return [*self.variants, *self.shadows]

    def with_variants(self, change: Callable[[Json], Json]) -> EndpointConfig:
        """The same with every variant changed."""
        changed = {"ProductionVariants": [change(spec) for spec in self.variants]}
        if self.shadows:
            changed["ShadowProductionVariants"] = [change(spec) for spec in self.shadows]
        return replace(self, request=self.request | changed)

    @property
    def capture(self) -> Json:
        """DataCaptureConfig; empty when nothing is captured."""
        return self.request.get("DataCaptureConfig") or {}

    @property
    def asynchronous(self) -> bool:
        """Whether its endpoints take InvokeEndpointAsync, and nothing else."""
        return bool(self.request.get("AsyncInferenceConfig"))

    @property
    def variant_names(self) -> set[str]:
        return {variant["VariantName"] for variant in self.variants}


@dataclass
class Pending:
    """A deployment that is under way, onto ``fleet``."""

    fleet: Fleet
    started: float
    statuses: dict[str, tuple[str, str, float]] = field(default_factory=dict)  # variant -> status, message, since

    def stage(self, variant: str, status: str, message: str, now: float) -> None:
        self.statuses[variant] = (status, message, now)


@dataclass
class Event:
    """One line of an endpoint's history, for people (AWS shows none of it)."""

    when: float
    what: str


@dataclass
class Endpoint:
    """A live endpoint.

    ``blue`` serves. ``green`` stands beside it during a deployment. ``leaving`` take no new request and are ending.
    ``mixed`` is what a failed rollback of a rolling deployment has left: it serves a part beside ``blue``.
    """

    name: str
    arn: str
    config: str
    created: float
    modified: float
    status: str = CREATING
    failure: str | None = None
    blue: Fleet | None = None
    green: Fleet | None = None
    leaving: list[Fleet] = field(default_factory=list)
    mixed: Fleet | None = None
    rolling: int = 0  # instances that a rolling deployment has at most beyond the larger of its fleets
    returning: bool = False  # a rolling deployment is on its way back
    pending: Pending | None = None
    deployment: Json | None = None  # LastDeploymentConfig
    job: asyncio.Task[None] | None = None
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=100))
    retired: deque[Json] = field(default_factory=lambda: deque(maxlen=20))  # summaries of fleets that are gone

    @property
    def busy(self) -> bool:
        return self.status in (CREATING, UPDATING, DELETING, SYSTEM_UPDATING)

    @property
    def settled(self) -> bool:
        """Whether no other fleet has a part of the traffic."""
        return self.green is None and self.mixed is None

    @property
    def fleets(self) -> list[Fleet]:
        """Every fleet whose processes run."""
        return [fleet for fleet in (self.blue, self.green, self.mixed, *self.leaving) if fleet is not None]

    @property
    def status_at_rest(self) -> str:
        return UPDATE_ROLLBACK_FAILED if self.mixed else IN_SERVICE

    @property
    def instances(self) -> int:
        """How many instances the endpoint may have: a rolling deployment needs a batch more, others a whole fleet."""
        counts = [sum(variant.desired for variant in fleet.variants.values()) for fleet in self.fleets]
        return max(counts, default=0) + self.rolling if self.rolling else sum(counts)

    def note(self, now: float, what: str) -> None:
        self.events.append(Event(now, what))


IN_PROGRESS, COMPLETED, STOPPING, STOPPED = "InProgress", "Completed", "Stopping", "Stopped"  # of a transform job


@dataclass
class TransformJob:
    """CreateTransformJob's request, and how far it has come."""

    name: str
    arn: str
    created: float
    modified: float
    request: Json
    model: Model
    status: str = IN_PROGRESS
    failure: str | None = None
    started: float | None = None
    ended: float | None = None
    task: asyncio.Task[None] | None = None


class State:
    """Every resource by name, and tags by ARN."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.models: dict[str, Model] = {}
        self.configs: dict[str, EndpointConfig] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.transforms: dict[str, TransformJob] = {}
        self.tags: dict[str, dict[str, str]] = {}

    @property
    def instances(self) -> int:
        """How many instances endpoints and jobs have now, or are about to have."""
        jobs = (job for job in self.transforms.values() if job.ended is None)
        busy: int = sum(job.request["TransformResources"]["InstanceCount"] for job in jobs)
        return busy + sum(endpoint.instances for endpoint in self.endpoints.values())

    def arn(self, kind: str, name: str) -> str:
        # AWS writes SageMaker's resource names in lower case in ARNs.
        return f"arn:aws:sagemaker:{self.region}:{ACCOUNT}:{kind}/{name.lower()}"

    def alarm_arn(self, tail: str) -> str:
        return f"arn:aws:cloudwatch:{self.region}:{ACCOUNT}:{tail}"

    def model(self, name: str) -> Model:
        if name not in self.models:
            raise invalid(f'Could not find model "{self.arn("model", name)}".')
        return self.models[name]

    def config(self, name: str) -> EndpointConfig:
        if name not in self.configs:
            raise invalid(f'Could not find endpoint configuration "{self.arn("endpoint-config", name)}".')
        return self.configs[name]

    def endpoint(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            raise invalid(f'Could not find endpoint "{self.arn("endpoint", name)}".')
        return self.endpoints[name]

    def set_tags(self, arn: str, tags: list[Json]) -> None:
        """Add or replace tags; the resource keeps at most 50."""
        merged = self.tags.get(arn, {}) | {tag["Key"]: tag["Value"] for tag in tags}
        if len(merged) > 50:
            raise invalid(f"Too many tags for {arn}: {len(merged)}. A resource has at most 50.")
        self.tags[arn] = merged
