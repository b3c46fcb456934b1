"""Amazon SageMaker endpoints, on AWS or on the embedded stack: the same calls, the same checks.

Nothing is created that is not in the ledger first, nothing is asked for twice, and every decision is taken from what
the service says now. What is sent is built in ``sagemaker_requests`` and checked in ``sagemaker_checks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tasks.adapters import hub_models, model_upload, sagemaker_cleanup, sagemaker_invoke
from tasks.adapters.aws_connection import Connection
from tasks.adapters.ledger import Ledger
from tasks.adapters.protection import UNPROTECTED, Protection
from tasks.adapters.sagemaker_batch import Batches
from tasks.adapters.sagemaker_checks import Checks
from tasks.adapters.sagemaker_evidence import Evidence
from tasks.adapters.sagemaker_history import History, close_move, read_history
from tasks.adapters.sagemaker_make import Maker
from tasks.adapters.sagemaker_monitoring import Monitoring
from tasks.adapters.sagemaker_observe import Serving, observe, read_serving, read_tags
from tasks.adapters.sagemaker_overview import EndpointView, overview
from tasks.adapters.sagemaker_rollouts import Rollouts
from tasks.adapters.sagemaker_scaling import Scaler
from tasks.adapters.sagemaker_trials import Trials
from tasks.batch_plan import BatchPlan
from tasks.contracts import ModelPackage, Observation
from tasks.errors import SlimlineError
from tasks.hosted import HubModel
from tasks.plans import ReleasePlan
from tasks.scaling_plan import Inference


class SageMaker:
    """Endpoints of one region. Safe for several threads."""

    def __init__(
        self,
        region: str | None,
        endpoint_url: str | None,
        bucket: str,
        role_arn: str,
        ledger: Path,
        environment: Mapping[str, str] | None = None,
        run: str = "",
        protection: Protection | None = None,
    ) -> None:
        """``environment`` is handed to every container; ``run`` is the flow run that asks, written on what it makes;
        ``protection`` is the KMS key and the network of what it makes.
        Makes clients; makes no call.

        Raises:
            NoRegion: neither ``region`` nor the profile names one.
        """
        self._aws = Connection(region, endpoint_url)
        self._bucket, self._role_arn, self._run = bucket, role_arn, run
        self._environment = dict(environment or {})
        self._protection = protection or UNPROTECTED
        self._ledger = Ledger(ledger, self._aws.place, run)
        self._maker = Maker(self._aws, self._ledger)
        self._kinds: dict[str, Inference] = {}

    @property
    def region(self) -> str:
        return self._aws.region

    @property
    def connection(self) -> Connection:
        """For adapters of other services in the same place."""
        return self._aws

    @property
    def clock_speed(self) -> float:
        """How fast the service's clock runs: 1 on AWS, more in a rehearsal."""
        return self._aws.rehearsal_speed or 1.0

    def describe_rehearsal(self, endpoint: str | None = None) -> str:
        """Empty on AWS; on the embedded stack a sentence that says so, with the speed of its clock, and what stands in
        for the containers of ``endpoint``.
        """
        speed = self._aws.rehearsal_speed
        if speed is None:
            return ""
        clock = "with the wall clock" if speed == 1 else f"{speed:g} times as fast as the wall clock"
        said = f"A rehearsal on the embedded stack, not on AWS: real model servers, and a clock that runs {clock}."
        return " ".join([said, *(self._aws.stand_ins(endpoint) if endpoint else ())])

    # The parts

    @cached_property
    def checks(self) -> Checks:
        """What is refused before anything is created."""
        return Checks(self._aws, self._bucket, self._role_arn, self._environment, self._run, self._protection)

    @cached_property
    def rollouts(self) -> Rollouts:
        """Versions brought to an endpoint, and taken back."""
        parts = self._ledger, self._maker, self.checks, self.trials, self.scaling
        return Rollouts(self._aws, *parts, self._run)

    @cached_property
    def trials(self) -> Trials:
        """Both versions beside each other in one config."""
        return Trials(self._aws, self._maker, self._bucket, self.scaling, self._protection)

    @cached_property
    def evidence(self) -> Evidence:
        """What the versions have answered."""
        return Evidence(self._aws, self._bucket)

    @cached_property
    def scaling(self) -> Scaler:
        """Instance counts that follow the load."""
        return Scaler(self._aws, self._ledger)

    @cached_property
    def monitoring(self) -> Monitoring:
        """Standing alarms and dashboards."""
        return Monitoring(self._aws, self._ledger)

    @cached_property
    def batches(self) -> Batches:
        """Batch transform jobs."""
        return Batches(self._aws, self._maker, self._ledger, self._role_arn, self._environment, self._run)

    # Before anything is created

    def check_plan(self, plan: ReleasePlan) -> None:
        """See ``Checks.plan``."""
        self.checks.plan(plan)

    def check_batch(self, plan: BatchPlan, image: str) -> None:
        """Every request of a batch transform, before there is anything; on AWS the role and the image too.

        Raises:
            RefusedRequest: with the field, what it holds, its limit, and what to change.
        """
        self.batches.check(plan, self.checks.batch(image))

    def hub_model(self, plan: ReleasePlan) -> HubModel:
        """The plan's model of the public hub. See ``hub_models.describe``."""
        chosen = plan.target.jumpstart
        return hub_models.describe(self._aws, chosen.model_id, chosen.version, plan.instance_type)

    def upload(self, folder: Path, digest: str) -> str:
        """See ``model_upload.upload``."""
        return model_upload.upload(self._aws, self._bucket, folder, digest, self._protection)

    def upload_archive(self, folder: Path, digest: str) -> str:
        """See ``model_upload.upload_archive``."""
        return model_upload.upload_archive(self._aws, self._bucket, folder, digest, self._protection)

    # Reading

    def now(self) -> float:
        """The service's clock, seconds since 1970."""
        return self._aws.now()

    def serving(self, endpoint: str) -> Serving | None:
        """What the endpoint says about itself, or none where there is no such endpoint."""
        return read_serving(self._aws, endpoint)

    def serving_config(self, endpoint: str) -> str | None:
        """EndpointConfigName of the endpoint now."""
        serving = self.serving(endpoint)
        return serving.config if serving else None

    def config_name(self, package: ModelPackage, plan: ReleasePlan) -> str:
        """The config that ``rollouts`` would make: from content, so the same for the same request."""
        return self.checks.blueprint(package, plan).name

    def overview(self, only: str | None = None) -> list[EndpointView]:
        """Every endpoint, or the one called ``only``, as a person wants to see it."""
        return overview(self._aws, only)

    def history(self, endpoint: str) -> History:
        """What releases have written on the endpoint; nothing where there is none."""
        serving = self.serving(endpoint)
        return read_history(self._aws, serving.arn) if serving else History()

    def close(self, endpoint: str, previous: str | None) -> None:
        """Write on the endpoint that its release has ended, and which config is the last good one before it."""
        serving = self.serving(endpoint)
        if serving is not None:
            self.scaling.resume(endpoint)
            close_move(self._aws, serving.arn, previous if previous != serving.config else None)

    def version_of(self, config: str) -> tuple[str, str]:
        """(name, version) in the registry that the config's tags name; empty where it has none."""
        tags = self._tags(config)
        return tags.get("slimline:model", ""), tags.get("slimline:version", "")

    def served_digest(self, config: str) -> str:
        """Digest of the folder that the config's model serves, from its tags; empty where it has none."""
        return self._tags(config).get("slimline:digest", "")

    def _tags(self, config: str) -> dict[str, str]:
        arn = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)["EndpointConfigArn"]
        return read_tags(self._aws, arn)

    def observe(self, endpoint: str, blue_config: str | None, green_config: str, since: float) -> Observation:
        """One look at a rollout. ``since`` is the service's clock, from ``now``."""
        return observe(self._aws, endpoint, blue_config, green_config, since)

    # Asking

    def probe(self, endpoint: str, prompt: str, parameters: Mapping[str, Any] = {"max_new_tokens": 8}) -> str:
        """See ``sagemaker_invoke.probe`` and ``probe_async``: a real inference that must be right."""
        if self._is_queue(endpoint):
            return sagemaker_invoke.probe_async(self._aws, endpoint, prompt, parameters)
        return sagemaker_invoke.probe(self._aws, endpoint, prompt, parameters)

    def send(self, endpoint: str, prompt: str, parameters: Mapping[str, Any]) -> int:
        """See ``sagemaker_invoke.send``: rehearsal traffic, the status is returned."""
        try:
            queued = self._is_queue(endpoint)
        except (BotoCoreError, ClientError, SlimlineError):
            return 0  # nobody answers there at all
        return sagemaker_invoke.send(self._aws, endpoint, prompt, parameters, asynchronous=queued)

    def _is_queue(self, endpoint: str) -> bool:
        """Whether it is an asynchronous endpoint. Read once: an endpoint keeps its kind."""
        if endpoint not in self._kinds:
            serving = self.serving(endpoint)
            if serving is None:
                return False
            self._kinds[endpoint] = serving.inference
        return self._kinds[endpoint] == "ASYNC"

    # Removing

    def delete_endpoint(self, endpoint: str, poll_seconds: float = 2.0) -> None:
        """See ``sagemaker_cleanup.delete_endpoint``. What stands guard over it goes too; its configs and models stay
        until ``sweep``.
        """
        self._kinds.pop(endpoint, None)
        self.scaling.remove(endpoint)  # AWS does it itself; without that permission it refuses to delete the endpoint
        sagemaker_cleanup.delete_endpoint(self._aws, self._ledger, endpoint, poll_seconds)
        self.monitoring.remove(endpoint)

    def remove_alarms(self, config: str) -> None:
        """Remove the alarms of a rollout to ``config`` that has ended."""
        sagemaker_cleanup.remove_alarms(self._aws, self._ledger, config)

    def sweep(self, endpoint: str | None = None, keep: Iterable[str] = ()) -> list[str]:
        """See ``sagemaker_cleanup.sweep``. ``keep``: configs to stay, such as the previous version's."""
        return sagemaker_cleanup.sweep(self._aws, self._ledger, endpoint, keep)
