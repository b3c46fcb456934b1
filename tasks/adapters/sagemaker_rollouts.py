"""Versions brought to an endpoint: created, updated, tried beside the old one, stopped, taken back.

Asked twice, nothing happens twice; nothing here waits.
"""

from __future__ import annotations

from tasks.adapters.aws_connection import Connection
from tasks.adapters.inference_kinds import check_kind
from tasks.adapters.ledger import Ledger
from tasks.adapters.sagemaker_checks import Checks, require_ready
from tasks.adapters.sagemaker_errors import endpoint_missing
from tasks.adapters.sagemaker_history import open_release, open_restore
from tasks.adapters.sagemaker_limits import check_capacity
from tasks.adapters.sagemaker_make import Maker
from tasks.adapters.sagemaker_observe import read_serving
from tasks.adapters.sagemaker_requests import alarms, create_endpoint, judge_alarm, update_endpoint
from tasks.adapters.sagemaker_scaling import Scaler
from tasks.adapters.sagemaker_trials import Trial, Trials, replace
from tasks.contracts import ModelPackage, Shift
from tasks.errors import ReleaseStuck
from tasks.plans import ReleasePlan


class Rollouts:
    """Rollouts of one connection. ``run``: the flow run that asks, written on the endpoint."""

    def __init__(
        self, aws: Connection, ledger: Ledger, maker: Maker, checks: Checks, trials: Trials, scaling: Scaler, run: str
    ) -> None:
        self._aws, self._ledger, self._maker, self._checks = aws, ledger, maker, checks
        self._trials, self._scaling, self._run = trials, scaling, run

    def create(self, endpoint: str, package: ModelPackage, plan: ReleasePlan) -> str:
        """Create model, config and endpoint, as far as they do not exist. Returns the config's name; does not wait.

        Raises:
            ReleaseStuck: the endpoint exists with another config, or has failed.
        """
        made = self._checks.prepared(package, plan)
        serving = read_serving(self._aws, endpoint)
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
            lambda: (now := read_serving(self._aws, endpoint)) is not None and now.config == made.name,
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
        made = self._checks.prepared(package, plan)
        now = read_serving(self._aws, endpoint)
        if now is not None and made.name == (now.pending_config or now.config):
            return made.name
        serving = require_ready(self._aws, endpoint)
        check_kind(plan, serving.inference)
        trial = self._trials.read(serving.config)  # of a shadow: its own config holds the count that it found
        configured = self._trials.configured(trial.previous) if trial else serving.configured_instances
        retain = serving.instances != configured  # autoscaling or a person has changed the count
        check_capacity(plan, serving.instances if retain else plan.instances)
        self._maker.fleet(made)
        self._scaling.make_way(endpoint, serving.config, made.name)
        if plan.inference != "SERVERLESS":  # nothing would look at them
            self._maker.alarms(alarms(endpoint, made.name, plan, made.tags))
        proven_in = trial.config if trial else None
        open_release(self._aws, serving.arn, serving.config, made.name, self._run, proven_in=proven_in)
        request = update_endpoint(endpoint, made.name, plan, retain=retain)
        self._maker.ask(
            "UpdateEndpoint",
            request,
            lambda: (
                (now := read_serving(self._aws, endpoint)) is not None and made.name in (now.pending_config, now.config)
            ),
        )
        return made.name

    def restore(self, endpoint: str, config: str) -> None:
        """Send all traffic back to a config that served before, all at once. Does not wait.

        It gets as many instances as there are now: what its own config or a trial's says is from another time.
        """
        serving = read_serving(self._aws, endpoint)
        if serving is None:
            raise endpoint_missing(endpoint, "DescribeEndpoint found none")
        if config in (serving.pending_config, serving.config):
            return
        open_restore(self._aws, serving.arn, serving.config, config, self._run)
        retain = serving.instances != self._trials.configured(config)
        self._scaling.make_way(endpoint, serving.config, config)
        self._aws.call("sagemaker", "UpdateEndpoint", **replace(endpoint, config, retain=retain))

    def begin_trial(self, endpoint: str, package: ModelPackage, plan: ReleasePlan) -> Trial:
        """Ask for a trial of the version on an endpoint in service. Does not wait.

        Raises:
            EndpointMissing, ReleaseStuck, RefusedRequest: as ``update``.
        """
        made = self._checks.prepared(package, plan)
        serving = require_ready(self._aws, endpoint)
        open_release(self._aws, serving.arn, serving.config, made.name, self._run)
        return self._trials.begin(endpoint, made, plan)

    def finish_trial(self, asked: Shift) -> None:
        """From a trial that the judge has promoted to the new version's own config. Asked again it changes nothing."""
        serving, trial = read_serving(self._aws, asked.endpoint), str(asked.trial_config)
        if serving is not None and serving.config == trial:
            wanted = asked.wanted_config
            open_release(self._aws, serving.arn, str(asked.previous_config), wanted, self._run, proven_in=trial)
        self._trials.finish(asked.endpoint, asked.wanted_config, str(asked.previous_config))

    def stop(self, config: str, reason: str) -> None:
        """Make SageMaker take the rollout to ``config`` back.

        No call stops a deployment. It goes back when one of its alarms is in ALARM, so the one that is made for this
        is put there. Nothing ever writes its metric and it ignores missing data, so no evaluation takes it out again.
        """
        self._aws.call(
            "cloudwatch", "SetAlarmState", AlarmName=judge_alarm(config), StateValue="ALARM",
            StateReason=f"Slimline's judge: {reason}"[:1023],
        )  # fmt: skip
