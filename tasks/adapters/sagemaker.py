"""Amazon SageMaker endpoints, on AWS or on the embedded stack: the same calls, the same checks.

Nothing is created that is not in the ledger first, nothing is asked for twice, and every decision is taken from what
the service says now. What is sent is built in ``sagemaker_requests`` and checked in ``sagemaker_limits``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tasks.adapters import hub_models, model_upload, sagemaker_cleanup, sagemaker_invoke
from tasks.adapters.aws_connection import Connection
from tasks.adapters.captures import Captures
from tasks.adapters.inference_kinds import ARCHIVE, check_inference, check_kind
from tasks.adapters.ledger import Ledger
from tasks.adapters.obstacles import require_none
from tasks.adapters.protection import UNPROTECTED, Protection, check_region
from tasks.adapters.sagemaker_batch import Batches
from tasks.adapters.sagemaker_errors import endpoint_missing
from tasks.adapters.sagemaker_history import History, close_move, open_release, open_restore, read_history
from tasks.adapters.sagemaker_limits import check_capacity, check_request, check_rules
from tasks.adapters.sagemaker_make import Maker
from tasks.adapters.sagemaker_metrics import Look, bounds, look, requests_of
from tasks.adapters.sagemaker_monitoring import Guard, Monitoring, check_monitoring
from tasks.adapters.sagemaker_observe import Serving, fleet_totals, observe, read_serving, read_tags
from tasks.adapters.sagemaker_overview import EndpointView, overview
from tasks.adapters.sagemaker_requests import (
    CHALLENGER,
    VARIANT,
    Blueprint,
    alarms,
    blueprint,
    create_endpoint,
    dimensions,
    judge_alarm,
    update_endpoint,
)
from tasks.adapters.sagemaker_scaling import Scaler
from tasks.adapters.sagemaker_trials import Trial, Trials, replace, trial_config, weights
from tasks.adapters.sagemaker_window import read_windows, span
from tasks.adapters.scaling_limits import check_scaling
from tasks.adapters.serveability import UNKNOWN, obstacles
from tasks.batch_plan import BatchPlan
from tasks.contracts import ModelPackage, ModelRef, Observation, RegisteredModel, Shift
from tasks.errors import RefusedRequest, ReleaseStuck, SlimlineError
from tasks.hosted import HubModel
from tasks.monitoring_contracts import Windows
from tasks.monitoring_plan import ObserveRules
from tasks.plans import ReleasePlan
from tasks.scaling_plan import Inference

_PLACEHOLDER_ACCOUNT = ":123456789012:"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.+")


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
        self._bucket, self._role_arn = bucket, role_arn
        self._ledger = Ledger(ledger, self._aws.place, run)
        self._run = run
        self._environment = dict(environment or {})
        self._kinds: dict[str, Inference] = {}
        self._protection = protection or UNPROTECTED
        self._maker = Maker(self._aws, self._ledger)

    @property
    def region(self) -> str:
        return self._aws.region

    # Before anything is created

    def check_plan(self, plan: ReleasePlan) -> None:
        """Build every request that ``plan`` leads to and check it; on AWS also refuse what only a rehearsal may do.
        What depends on the model's folder is checked by ``serveability.obstacles`` when it is packaged.

        Raises:
            RefusedRequest: with the field, what it holds, its limit, and what to change.
        """
        check_rules(plan)
        check_inference(plan, rehearsed=self._aws.rehearsal_speed is not None)
        check_scaling(plan)
        require_none(obstacles(UNKNOWN, plan))
        if self._aws.rehearsal_speed is None:
            self._check_for_aws(plan)
        made = self._blueprint(_stand_in(self._bucket, plan), plan)
        check_request("sagemaker", "CreateModel", made.model)
        check_request("sagemaker", "CreateEndpointConfig", made.config)
        check_request("sagemaker", "CreateEndpoint", create_endpoint(plan.endpoint, made))
        if plan.on_trial:
            self._check_trial(made, plan)
        moves = plan.after_shadow if plan.on_trial else plan
        check_request("sagemaker", "UpdateEndpoint", update_endpoint(plan.endpoint, made.name, moves, retain=False))
        for alarm in alarms(plan.endpoint, made.name, plan):
            check_request("cloudwatch", "PutMetricAlarm", alarm)
        check_monitoring(plan, rehearsal=self._aws.rehearsal_speed is not None)

    def _check_trial(self, made: Blueprint, plan: ReleasePlan) -> None:
        variant = made.config["ProductionVariants"][0]
        config = trial_config(made, variant, made.name, plan.instances, plan, self._bucket, self._protection)
        check_request("sagemaker", "CreateEndpointConfig", config)
        for percent in plan.shares if plan.mode != "SHADOW" else ():
            check_request("sagemaker", "UpdateEndpointWeightsAndCapacities", weights(plan.endpoint, percent))
        for retain in (False, True):
            check_request("sagemaker", "UpdateEndpoint", replace(plan.endpoint, made.name, retain=retain))

    def _check_for_aws(self, plan: ReleasePlan) -> None:
        rehearsal = plan.rehearsal
        if rehearsal.error_share or rehearsal.requests_per_second:
            raise RefusedRequest(
                "rehearsed traffic and faults are for the embedded stack only: on AWS real users are the traffic",
                observed=f"{rehearsal.requests_per_second} requests_per_second, {rehearsal.error_share} error_share",
                limit="0 and 0",
                remedy="set both to 0 in plan.rehearsal",
            )
        self._check_role()

    def _check_role(self) -> None:
        if _PLACEHOLDER_ACCOUNT in self._role_arn:
            raise RefusedRequest(
                "the execution role is the placeholder", observed=self._role_arn, limit="a role of your account",
                remedy="create it from deployments/aws/execution-role-policy.json and set SLIMLINE_ROLE_ARN",
            )  # fmt: skip
        check_region(self._aws.region, {"the KMS key": self._protection.kms_key})

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

    @cached_property
    def batches(self) -> Batches:
        """Batch transform jobs."""
        return Batches(self._aws, self._maker, self._ledger, self._role_arn, self._environment, self._run)

    def check_batch(self, plan: BatchPlan, image: str) -> None:
        """Every request of a batch transform, before there is anything; on AWS the role and the image too.

        Raises:
            RefusedRequest: with the field, what it holds, its limit, and what to change.
        """
        if self._aws.rehearsal_speed is None:
            self._check_role()
            self._check_image(image)
        stand_in = _stand_in(self._bucket, ReleasePlan(inference="SERVERLESS")).model_copy(update={"image": image})
        self.batches.check(plan, stand_in)

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
        """The config that ``create`` and ``update`` would make: from content, so the same for the same request."""
        return self._blueprint(package, plan).name

    def overview(self, only: str | None = None) -> list[EndpointView]:
        """Every endpoint, or the one called ``only``, as a person wants to see it."""
        return overview(self._aws, self.scaling, only)

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
        arn = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)["EndpointConfigArn"]
        tags = read_tags(self._aws, arn)
        return tags.get("slimline:model", ""), tags.get("slimline:version", "")

    def observe(self, endpoint: str, blue_config: str | None, green_config: str, since: float) -> Observation:
        """One look at a rollout. ``since`` is the service's clock, from ``now``."""
        return observe(self._aws, endpoint, blue_config, green_config, since)

    def look(self, asked: Shift, plan: ReleasePlan, near_ms: float | None = None) -> Look:
        """What both versions have answered since the new one first had traffic.

        ``near_ms``: where the old version's judged latency was last seen. It is measured finely there, and the new
        version's there and where the plan's ratios would be reached.
        """
        endpoint, near = asked.endpoint, [near_ms] if near_ms else []
        # What is only just harmless mostly lies within the fine bounds around ``near_ms``.
        ratios = {plan.judge.latency_ratio, *(each for each in [plan.judge.harmless_ratio] if each > 1.2)}
        limits = bounds(plan.max_latency_ms, *near, *(each * ratio for each in near for ratio in ratios))
        if asked.trial_config:
            mine, base = dimensions(endpoint, None, CHALLENGER), dimensions(endpoint, None, VARIANT)
        else:
            beside = plan.mode != "ALL_AT_ONCE" and asked.previous_config not in (None, asked.wanted_config)
            mine = dimensions(endpoint, asked.wanted_config)
            base = dimensions(endpoint, asked.previous_config) if beside else []
        base_limits, queued = bounds(plan.max_latency_ms, *near), plan.inference == "ASYNC"
        return look(self._aws, mine, base or None, asked.since, self.now(), limits, base_limits, queued)

    def client_errors(self, asked: Shift, plan: ReleasePlan, config: str, before: float) -> tuple[int, int]:
        """(4xx answers, requests) of one config in the ``before`` seconds until the release began."""
        began, queued = asked.since, plan.inference == "ASYNC"
        invalid, requests = fleet_totals(
            self._aws, asked.endpoint, config, began - before, began,
            ("Invocation4XXErrors", "Sum"), requests_of(queued),
        )  # fmt: skip
        return invalid, requests

    def captures(self, asked: Shift) -> Captures:
        """Both versions' answers of a trial with a shadow variant."""
        since = datetime.fromtimestamp(asked.since, UTC)
        return Captures(self._aws, self._bucket, asked.endpoint, f"{since:%Y-%m-%dT%H:%M:%SZ}")

    # Creating and moving

    def create(self, endpoint: str, package: ModelPackage, plan: ReleasePlan) -> str:
        """Create model, config and endpoint, as far as they do not exist. Returns the config's name; does not wait.

        Raises:
            ReleaseStuck: the endpoint exists with another config, or has failed.
        """
        made = self._prepared(package, plan)
        serving = self.serving(endpoint)
        if serving is not None:
            if serving.config == made.name and serving.status != "Failed":
                return made.name
            raise ReleaseStuck(
                f"endpoint {endpoint} exists already", observed=f"{serving.status} with config {serving.config}",
                limit="no endpoint of this name", remedy="update it, or delete it when it has failed",
            )  # fmt: skip
        self._maker.fleet(made)
        self._ledger.creating("endpoint", endpoint)
        self._maker.ask(
            "CreateEndpoint",
            create_endpoint(endpoint, made),
            lambda: (now := self.serving(endpoint)) is not None and now.config == made.name,
        )
        return made.name

    def update(self, endpoint: str, package: ModelPackage, plan: ReleasePlan) -> str:
        """Ask for a guarded blue/green update, which goes back by itself on an alarm. Returns the config's name.

        Asked again while it runs, or after it has been promoted, it changes nothing.

        Raises:
            EndpointMissing: there is no such endpoint.
            ReleaseStuck: another update is under way, or the endpoint has failed.
            RefusedRequest: the plan does not fit the endpoint: another variant name, too few instances.
        """
        made = self._prepared(package, plan)
        now = self.serving(endpoint)
        if now is not None and made.name == (now.pending_config or now.config):
            return made.name
        serving = self._require_ready(endpoint)
        check_kind(plan, serving.inference)
        trial = self.trials.read(serving.config)  # of a shadow: its own config holds the count that it found
        configured = self.trials.configured(trial.previous) if trial else serving.configured_instances
        retain = serving.instances != configured  # autoscaling or a person has changed the count
        check_capacity(plan, serving.instances if retain else plan.instances)
        self._maker.fleet(made)
        self.scaling.make_way(endpoint, serving.config, made.name)
        if plan.inference != "SERVERLESS":  # nothing would look at them
            self._maker.alarms(alarms(endpoint, made.name, plan, made.tags))
        proven_in = trial.config if trial else None
        open_release(self._aws, serving.arn, serving.config, made.name, self._run, proven_in=proven_in)
        request = update_endpoint(endpoint, made.name, plan, retain=retain)
        self._maker.ask(
            "UpdateEndpoint",
            request,
            lambda: (now := self.serving(endpoint)) is not None and made.name in (now.pending_config, now.config),
        )
        return made.name

    def _require_ready(self, endpoint: str) -> Serving:
        serving = self.serving(endpoint)
        if serving is None:
            raise endpoint_missing(endpoint, "DescribeEndpoint found none")
        if serving.status != "InService":
            raise ReleaseStuck(
                f"endpoint {endpoint} cannot be updated now",
                observed=f"{serving.status} {serving.failure_reason}".strip(), limit="InService",
                remedy="wait until the other update has ended, or mend the endpoint",
            )  # fmt: skip
        if serving.variants != (VARIANT,):
            raise RefusedRequest(
                "a guarded update keeps the variant's name, and Slimline's fleets have one variant",
                observed=", ".join(serving.variants), limit=VARIANT,
                remedy="release to a new endpoint, or first move this one to a config with that one variant",
            )  # fmt: skip
        return serving

    def restore(self, endpoint: str, config: str) -> None:
        """Send all traffic back to a config that served before, all at once. Does not wait.

        It gets as many instances as there are now: what its own config or a trial's says is from another time.
        """
        serving = self.serving(endpoint)
        if serving is None:
            raise endpoint_missing(endpoint, "DescribeEndpoint found none")
        if config in (serving.pending_config, serving.config):
            return
        open_restore(self._aws, serving.arn, serving.config, config, self._run)
        retain = serving.instances != self.trials.configured(config)
        self.scaling.make_way(endpoint, serving.config, config)
        self._aws.call("sagemaker", "UpdateEndpoint", **replace(endpoint, config, retain=retain))

    def _blueprint(self, package: ModelPackage, plan: ReleasePlan) -> Blueprint:
        return blueprint(package, plan, self._role_arn, self._environment, self._run, self._bucket, self._protection)

    def _prepared(self, package: ModelPackage, plan: ReleasePlan) -> Blueprint:
        self.check_plan(plan)
        if self._aws.rehearsal_speed is None:
            self._check_image(package.image)
        return self._blueprint(package, plan)

    def _check_image(self, image: str) -> None:
        if not _ECR.fullmatch(image):
            raise RefusedRequest(
                "SageMaker takes images from ECR", observed=image,
                limit="<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>",
                remedy="push the image and set SLIMLINE_IMAGE",
            )  # fmt: skip
        check_region(self._aws.region, {"the image": image})

    @cached_property
    def trials(self) -> Trials:
        """Both versions beside each other in one config."""
        return Trials(self._aws, self._maker, self._bucket, self.scaling, self._protection)

    @cached_property
    def scaling(self) -> Scaler:
        """Instance counts that follow the load."""
        return Scaler(self._aws, self._ledger)

    def begin_trial(self, endpoint: str, package: ModelPackage, plan: ReleasePlan) -> Trial:
        """Ask for a trial of the version on an endpoint in service. Does not wait.

        Raises:
            EndpointMissing, ReleaseStuck, RefusedRequest: as ``update``.
        """
        made = self._prepared(package, plan)
        serving = self._require_ready(endpoint)
        open_release(self._aws, serving.arn, serving.config, made.name, self._run)
        return self.trials.begin(endpoint, made, plan)

    def finish_trial(self, asked: Shift) -> None:
        """From a trial that the judge has promoted to the new version's own config. Asked again it changes nothing."""
        serving, trial = self.serving(asked.endpoint), str(asked.trial_config)
        if serving is not None and serving.config == trial:
            wanted = asked.wanted_config
            open_release(self._aws, serving.arn, str(asked.previous_config), wanted, self._run, proven_in=trial)
        self.trials.finish(asked.endpoint, asked.wanted_config, str(asked.previous_config))

    def stop_rollout(self, config: str, reason: str) -> None:
        """Make SageMaker take the rollout to ``config`` back.

        No call stops a deployment. It goes back when one of its alarms is in ALARM, so the one that is made for this
        is put there. Nothing ever writes its metric and it ignores missing data, so no evaluation takes it out again.
        """
        self._aws.call(
            "cloudwatch", "SetAlarmState", AlarmName=judge_alarm(config), StateValue="ALARM",
            StateReason=f"Slimline's judge: {reason}"[:1023],
        )  # fmt: skip

    # Standing guard

    @cached_property
    def monitoring(self) -> Monitoring:
        """Standing alarms and dashboards."""
        return Monitoring(self._aws, self._ledger)

    def guard(self, plan: ReleasePlan) -> Guard:
        """See ``Monitoring.apply``.

        Raises:
            EndpointMissing: there is no such endpoint.
        """
        serving = self.serving(plan.endpoint)
        if serving is None:
            raise endpoint_missing(plan.endpoint, "DescribeEndpoint found none")
        return self.monitoring.apply(plan, serving.arn)

    def windows(self, serving: Serving, rules: ObserveRules, limit_ms: float | None) -> Windows:
        """The newest window of an endpoint's metrics, and the one before it. ``limit_ms``: where counts are exact."""
        when = span(self.now(), 60 * rules.window_minutes)
        quantile, ratio = rules.latency_quantile, rules.latency_ratio
        endpoint, variant = serving.endpoint, serving.variants[0]
        return read_windows(self._aws, endpoint, variant, serving.config, when, quantile, limit_ms, ratio)

    def served_digest(self, config: str) -> str:
        """Digest of the folder that the config's model serves, from its tags; empty where it has none."""
        arn = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)["EndpointConfigArn"]
        return read_tags(self._aws, arn).get("slimline:digest", "")

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


def _stand_in(bucket: str, plan: ReleasePlan) -> ModelPackage:
    """A package like those that registering makes, so that a plan's requests can be checked before there is one."""
    digest = "0" * 64
    model = ModelRef(
        uri="model", digest=digest, name="model", licence="", architecture="", parameters=0, bytes=0, dtype="float32"
    )
    registered = RegisteredModel(name="model", version="0", alias="", model=model, run_id="0" * 32, url="")
    uri = f"s3://{bucket}/models/{digest}{ARCHIVE if plan.inference == 'SERVERLESS' else '/'}"
    return ModelPackage(registered=registered, s3_uri=uri, image="image", digest=digest)
