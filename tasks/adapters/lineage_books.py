"""What MLflow knows of where a version comes from and where it went, as plain values: versions, runs, their inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.adapters.lineage import GONE, find_aliases, find_models, find_version
from tasks.adapters.registry import Registry
from tasks.adapters.serving_history import Move, moves_of_model, moves_on_endpoint, of_model, quoted
from tasks.adapters.tracking import TRAINING_PAGES, Tracking
from tasks.errors import RefusedModel

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
    """``deleted``: MLflow has it no more, and nothing but its name is known. ``run_id`` is empty where somebody else
    registered it without a run.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    model_id: str
    url: str
    created: datetime
    deleted: bool = False

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

    def version_then(self, name: str, number: str) -> VersionFacts:
        """A version that a run, an endpoint or a report names: deleted since, it is known by its name alone."""
        try:
            return self._version(self._client.get_model_version(name, number))
        except MlflowException as error:
            if error.error_code != GONE:
                raise
        return VersionFacts(name, number, (), {}, run_id="", model_id="", url="", created=_time(None), deleted=True)

    def versions(self, name: str) -> list[VersionFacts]:
        """Every version of a registered model, oldest first, with its aliases; none where there is no such model."""
        found = list(self._search(of_model(name)))
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
                if parent is None:
                    yield role, self._run(run)
                    continue
                gone = replace(self._run(run), id=parent, name=f"deleted run {parent}")
                yield f"{role}: {run.info.run_name}", self.find_run(parent) or gone

    def versions_of_run(self, run: RunFacts) -> list[VersionFacts]:
        """What a run has registered, or found registered already, deleted since or not; none where its gate failed."""
        told = run.tags.get(VERSION)
        if told:
            name, _, number = told.rpartition("/")
            return [self.version_then(name, number)]
        return [self._version(version) for version in self._search(f"run_id = '{run.id}'")]

    def run(self, run_id: str) -> RunFacts:
        """Raises RefusedModel: MLflow has no such run."""
        found = self.find_run(run_id)
        if found is None:
            raise RefusedModel(
                "the run that made the version is not in MLflow", observed=run_id or "the version names no run",
                limit="a version that Slimline registered, with its run", remedy="choose another version",
            )  # fmt: skip
        return found

    def find_run(self, run_id: str) -> RunFacts | None:
        """None where it was deleted for good, or the version names none."""
        if not run_id:
            return None
        try:
            return self._run(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return None

    def stages(self, run_id: str) -> list[RunFacts]:
        """The child runs, in the order in which they were begun."""
        found = self._tracking.search(f"tags.`{_PARENT}` = '{run_id}'")
        return sorted((self._run(run) for run in found), key=lambda run: run.started)

    def other_runs(self, version: VersionFacts) -> list[RunFacts]:
        """Runs that found the same model already registered, newest last; of a deleted version its own run too."""
        found = self._tracking.search(f"tags.`{VERSION}` = {quoted(version.title)}")
        runs = [self._run(run) for run in found if run.info.run_id != version.run_id]
        return sorted(runs, key=lambda run: run.started)

    def reproductions(self, version: VersionFacts) -> list[RunFacts]:
        """Runs that made it once more, oldest first."""
        found = self._tracking.search(f"tags.`{REPRODUCES}` = {quoted(version.title)}")
        return sorted((self._run(run) for run in found), key=lambda run: run.started)

    def file(self, run_id: str, path: str) -> str | None:
        return self._tracking.read_file(run_id, path)

    def file_url(self, run_id: str, path: str) -> str:
        return self._tracking.file_url(run_id, path)

    def moves(self, name: str) -> list[Move]:
        return moves_of_model(self._client, name)

    def endpoint_moves(self, endpoint: str) -> list[Move]:
        return moves_on_endpoint(self._client, endpoint)

    def models(self) -> list[str]:
        """Names of registered models, for an error to list."""
        return find_models(self._client)

    def aliases(self, name: str) -> dict[str, str]:
        """Where each alias is now.

        Raises:
            RefusedModel: there is no such model.
        """
        return find_aliases(self._client, name)

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
            run_id=str(found.run_id or ""),
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
