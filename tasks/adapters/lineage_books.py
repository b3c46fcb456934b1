"""What MLflow knows of where a version comes from and where it went, as plain values: versions, runs, their inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from tasks.adapters.lineage import find_version
from tasks.adapters.registry import Registry
from tasks.adapters.serving_history import Move, moves_of_model, moves_on_endpoint
from tasks.adapters.tracking import TRAINING_PAGES, Tracking

VERSION = "slimline.version"  # of a run: the version that it made, or found already made
REPRODUCES = "slimline.reproduces"
_PARENT = "mlflow.parentRunId"
_ROLES = {  # tag of a version → what a digest that is found there is
    "slimline.digest": "compressed model",
    "slimline.exported_digest": "exported model",
    "slimline.baseline_digest": "original model",
    "slimline.dataset_digest": "data set",
}
_RUN_ROLES = {
    "slimline.digest": "a stage's model",
    "slimline.dataset_digest": "data set",
    "slimline.text_digest": "source text",
    "slimline.split_digests": "split of a data set",
    "slimline.original_digest": "original model",
    "slimline.trained_from_digest": "model that was trained",
}
_PAGE = 200


@dataclass(frozen=True)
class InputFacts:
    """One data set of a run. ``digest`` is of the part that was used for ``context``, ``dataset`` of the whole."""

    name: str
    context: str
    digest: str
    dataset: str
    text: str
    licence: str


@dataclass(frozen=True)
class RunFacts:
    id: str
    name: str
    status: str
    url: str
    started: datetime
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    inputs: tuple[InputFacts, ...]


@dataclass(frozen=True)
class VersionFacts:
    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    model_id: str
    url: str
    created: datetime

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"


class Books:
    """One MLflow server, read only. ``experiment`` is where runs are looked for by digest."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        self._uri = tracking_uri.rstrip("/")
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        self._tracking, self._registry = Tracking(self._uri, experiment), Registry(self._uri)

    def version(self, name: str, version: str) -> VersionFacts:
        """By number or alias.

        Raises:
            RefusedModel: there is none.
        """
        found = find_version(self._client, name, version)
        return self._version(self._client.get_model_version(name, found.version))  # by alias it comes without aliases

    def versions(self, name: str) -> list[VersionFacts]:
        """Every version of a registered model, oldest first, with its aliases; none where there is no such model."""
        found = list(self._search(f"name = '{name}'"))
        held = self.aliases(name) if found else {}
        facts = (self._version(each) for each in found)
        known = [
            replace(each, aliases=tuple(sorted(alias for alias, at in held.items() if at == each.version)))
            for each in facts  # a search tells no aliases
        ]
        return sorted(known, key=lambda each: int(each.version))

    def versions_with(self, digest: str) -> Iterator[tuple[str, VersionFacts]]:
        """(what the digest is, version) of each version that carries a digest that begins so."""
        for tag, role in _ROLES.items():
            for version in self._search(f"tags.`{tag}` LIKE '{digest}%'"):
                yield role, self._version(version)

    def runs_with(self, digest: str) -> Iterator[tuple[str, RunFacts]]:
        """(what the digest is, run) of each run that has such a digest; a stage's is told as the run that it is of."""
        for tag, role in _RUN_ROLES.items():
            found = self._tracking.search(f"tags.`{tag}` LIKE '%{digest}%'")
            parents = [each.data.tags.get(_PARENT) for each in found]
            for run, parent in zip(found, parents, strict=True):
                whole = self._client.get_run(parent) if parent else run
                yield (f"{role}: {run.info.run_name}" if parent else role), self._run(whole)

    def versions_of_run(self, run: RunFacts) -> list[VersionFacts]:
        """What a run has registered, or found registered already; none where its gate failed."""
        told = run.tags.get(VERSION)
        if told:
            name, _, number = told.rpartition("/")
            return [self._version(self._client.get_model_version(name, number))]
        return [self._version(version) for version in self._search(f"run_id = '{run.id}'")]

    def run(self, run_id: str) -> RunFacts:
        return self._run(self._client.get_run(run_id))

    def stages(self, run_id: str) -> list[RunFacts]:
        """The child runs, in the order in which they were begun."""
        found = self._tracking.search(f"tags.`{_PARENT}` = '{run_id}'")
        return sorted((self._run(run) for run in found), key=lambda run: run.started)

    def other_runs(self, version: VersionFacts) -> list[RunFacts]:
        """Runs that found the same model already registered, newest last."""
        found = self._tracking.search(f"tags.`{VERSION}` = '{version.title}'")
        runs = [self._run(run) for run in found if run.info.run_id != version.run_id]
        return sorted(runs, key=lambda run: run.started)

    def reproductions(self, version: VersionFacts) -> list[RunFacts]:
        """Runs that made it once more, oldest first."""
        found = self._tracking.search(f"tags.`{REPRODUCES}` = '{version.title}'")
        return sorted((self._run(run) for run in found), key=lambda run: run.started)

    def file(self, run_id: str, path: str) -> str | None:
        return self._tracking.read_file(run_id, path)

    def file_url(self, run_id: str, path: str) -> str:
        return self._tracking.file_url(run_id, path)

    def moves(self, name: str) -> list[Move]:
        return moves_of_model(self._client, name)

    def endpoint_moves(self, endpoint: str) -> list[Move]:
        return moves_on_endpoint(self._client, endpoint)

    def aliases(self, name: str) -> dict[str, str]:
        """Where each alias is now."""
        return {str(alias): str(at) for alias, at in self._client.get_registered_model(name).aliases.items()}

    def _search(self, condition: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self._client.search_model_versions(condition, max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _version(self, found: ModelVersion) -> VersionFacts:
        return VersionFacts(
            name=str(found.name),
            version=str(found.version),
            aliases=tuple(str(alias) for alias in found.aliases),
            tags=dict(found.tags),
            run_id=str(found.run_id),
            model_id=str(found.source).removeprefix("models:/"),
            url=self._registry.version_url(str(found.name), str(found.version)),
            created=_time(found.creation_timestamp),
        )

    def _run(self, run: Run) -> RunFacts:
        entries = run.inputs.dataset_inputs if run.inputs else []
        return RunFacts(
            id=str(run.info.run_id),
            name=str(run.info.run_name),
            status=str(run.info.status),
            url=f"{self._uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{TRAINING_PAGES}",
            started=_time(run.info.start_time),
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
            tags=dict(run.data.tags),
            inputs=tuple(_input(entry) for entry in entries),
        )


def _input(entry: object) -> InputFacts:
    dataset, tags = entry.dataset, {tag.key: tag.value for tag in entry.tags}  # type: ignore[attr-defined]
    source = json.loads(dataset.source)
    return InputFacts(
        name=source.get("name", dataset.name),
        context=tags.get("mlflow.data.context", ""),
        digest=source.get("split_sha256") or source.get("sha256", dataset.digest),
        dataset=source.get("sha256", dataset.digest),
        text=source.get("text_sha256", ""),
        licence=source.get("licence", ""),
    )


def _time(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
