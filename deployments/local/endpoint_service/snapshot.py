"""The service's state on disk, so that it survives a restart: ``state.json``, written beside its place and renamed.

Saved after every operation that changes something, and within half a second when a job has moved an endpoint on. Kept:
models, configurations, endpoints with their weights, counts, history and deployment under way, tags, alarms with their
state, scalable targets with policies, schedules and activities, transform jobs, and the clock's time. Not kept:
requests under way. S3 has a mirror of its own (``s3_mirror.py``), metrics and the alarms' history a journal
(``journal.py``).

A service that comes back shows its endpoints as SystemUpdating while their model servers start, then goes on with a
deployment that was under way, from its beginning: the old fleet serves until the new one is healthy again. So does a
transform job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from deployments.local.endpoint_service.alarms import Alarm, AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.composite import Composite
from deployments.local.endpoint_service.dashboards import Dashboards
from deployments.local.endpoint_service.fleets import Fleet
from deployments.local.endpoint_service.metric_queries import metric_name
from deployments.local.endpoint_service.scaling.book import Book
from deployments.local.endpoint_service.state import (
    DELETING,
    Endpoint,
    EndpointConfig,
    Event,
    Model,
    State,
    TransformJob,
)
from deployments.local.endpoint_service.wire import Json

VERSION = 1


class BadSnapshot(RuntimeError):
    """The file is there and is not a snapshot; the text says why."""


@dataclass(frozen=True)
class Parts:
    """What a fleet is made from. Configuration and models may have been deleted since, as on AWS."""

    config: EndpointConfig
    models: dict[str, Model]


@dataclass(frozen=True)
class Saved:
    """An endpoint without its fleets, and what they were made from."""

    endpoint: Endpoint
    serving: Parts | None
    deploying: Parts | None


class Snapshot:
    """Writes and reads one file."""

    def __init__(
        self, path: Path, state: State, alarms: AlarmBook, dashboards: Dashboards, book: Book, clock: Clock
    ) -> None:
        self._path = path
        self._state = state
        self._alarms = alarms
        self._dashboards = dashboards
        self._book = book
        self._clock = clock
        self._last = ""

    def save(self) -> None:
        """Write what is now; nothing when only time has passed."""
        content = self._content()
        text = json.dumps(content, sort_keys=True)
        if text == self._last:
            return
        self._last = text
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps({"version": VERSION, "now": self._clock.now(), **content}, indent=1))
        part.replace(self._path)

    def _content(self) -> Json:
        return {
            "models": [_model(model) for model in self._state.models.values()],
            "configs": [_config(config) for config in self._state.configs.values()],
            "endpoints": [_endpoint(each) for each in self._state.endpoints.values() if each.status != DELETING],
            "tags": self._state.tags,
            "alarms": [_alarm(alarm) for alarm in self._alarms.alarms.values()],
            "composites": [_alarm(alarm) for alarm in self._alarms.composites.values()],
            "dashboards": self._dashboards.kept,
            "scaling": self._book.saved(),
            "transforms": [_job(job) for job in self._state.transforms.values()],
        }

    def load(self) -> list[Saved]:
        """Put everything but fleets back; the endpoints, for which fleets must be started.

        Raises:
            BadSnapshot: the file is torn or of another version. It is not overwritten.
        """
        try:
            content = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise BadSnapshot(f"{self._path} is not JSON ({error}); move it away to start with nothing") from error
        if content.get("version") != VERSION:
            found = content.get("version")
            raise BadSnapshot(f"{self._path} is of version {found}, not {VERSION}; move it away to start with nothing")
        self._clock.advance_to(content["now"])
        state = self._state
        for each in content["models"]:
            state.models[each["name"]] = _model_from(each, state)
        for each in content["configs"]:
            state.configs[each["name"]] = _config_from(each, state)
        state.tags.update(content["tags"])
        for each in content["alarms"]:
            self._put_alarm(each)
        for each in content.get("composites", []):
            self._alarms.composites[each["name"]] = Composite(arn=self._arn(each), log=self._alarms.history, **each)
        self._dashboards.kept.update(content.get("dashboards", {}))
        self._book.restore(content.get("scaling", {}))
        for each in content.get("transforms", []):
            state.transforms[each["name"]] = _job_from(each, state)
        return [_saved(each, state) for each in content["endpoints"]]

    def _arn(self, each: Json) -> str:
        return self._state.alarm_arn(f"alarm:{each['name']}")

    def _put_alarm(self, each: Json) -> None:
        request = each["request"]
        alarm = Alarm(
            each["name"],
            self._arn(each),
            request,
            metric_name(request.get("Namespace", ""), request),
            updated=each["updated"],
            log=self._alarms.history,
            state=each["state"],
            reason=each["reason"],
            since=each["since"],
        )
        # Metrics are gone: the time between is not evaluated afterwards.
        alarm.checked = self._clock.now() // alarm.step * alarm.step
        self._alarms.alarms[alarm.name] = alarm


def _model(model: Model) -> Json:
    return {"name": model.name, "created": model.created, "request": model.request}


def _model_from(each: Json, state: State) -> Model:
    request = each["request"]
    container = request.get("PrimaryContainer") or request["Containers"][0]
    return Model(each["name"], state.arn("model", each["name"]), each["created"], request, container)


def _config(config: EndpointConfig) -> Json:
    return {"name": config.name, "created": config.created, "request": config.request}


def _config_from(each: Json, state: State) -> EndpointConfig:
    return EndpointConfig(each["name"], state.arn("endpoint-config", each["name"]), each["created"], each["request"])


def _alarm(alarm: Alarm | Composite) -> Json:
    return {
        "name": alarm.name,
        "request": alarm.request,
        "updated": alarm.updated,
        "state": alarm.state,
        "reason": alarm.reason,
        "since": alarm.since,
    }


def _job(job: TransformJob) -> Json:
    kept = ("name", "created", "modified", "request", "status", "failure", "started", "ended")
    return {name: getattr(job, name) for name in kept} | {"model": _model(job.model)}


def _job_from(each: Json, state: State) -> TransformJob:
    arn, model = state.arn("transform-job", each["name"]), _model_from(each["model"], state)
    return TransformJob(**each | {"arn": arn, "model": model})


def _endpoint(endpoint: Endpoint) -> Json:
    return {
        "name": endpoint.name,
        "config": endpoint.config,
        "created": endpoint.created,
        "modified": endpoint.modified,
        "status": endpoint.status,
        "failure": endpoint.failure,
        "deployment": endpoint.deployment,
        "serving": _fleet(endpoint.blue),
        "deploying": None if endpoint.returning else _fleet(endpoint.green),
        "history": [[event.when, event.what] for event in endpoint.events],
        "retired": list(endpoint.retired),
    }


def _fleet(fleet: Fleet | None) -> Json | None:
    """Its configuration with the weights and counts that it has now, and the models that it was made from."""
    if fleet is None:
        return None

    def now(spec: Json) -> Json:
        variant = fleet.variants[spec["VariantName"]]
        return spec | {"InitialVariantWeight": variant.weight, "InitialInstanceCount": variant.desired}

    request = fleet.config.with_variants(now).request
    models = {variant.model.name: _model(variant.model) for variant in fleet.variants.values()}
    return {**_config(fleet.config), "request": request, "models": list(models.values())}


def _saved(each: Json, state: State) -> Saved:
    endpoint = Endpoint(
        each["name"],
        state.arn("endpoint", each["name"]),
        each["config"],
        each["created"],
        each["modified"],
        status=each["status"],
        failure=each["failure"],
        deployment=each["deployment"],
    )
    endpoint.events.extend(Event(when, what) for when, what in each["history"])
    endpoint.retired.extend(each["retired"])
    state.endpoints[endpoint.name] = endpoint
    return Saved(endpoint, _parts(each["serving"], state), _parts(each["deploying"], state))


def _parts(fleet: Json | None, state: State) -> Parts | None:
    if fleet is None:
        return None
    models = [_model_from(each, state) for each in fleet["models"]]
    return Parts(_config_from(fleet, state), {model.name: model for model in models})
