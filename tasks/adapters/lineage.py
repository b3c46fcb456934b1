"""Read a registered version back: the handles of its model, its original and its data set, as they were logged."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from tasks.adapters.registry import CHALLENGER, CHAMPION, Registry
from tasks.adapters.serving_history import of_model
from tasks.contracts import DatasetRef, Picked, RegisteredModel, Scorecard
from tasks.errors import RefusedModel

_NAMED = 10  # versions or models that an error lists
GONE = "RESOURCE_DOES_NOT_EXIST"
_UNKNOWN = (GONE, "INVALID_PARAMETER_VALUE")  # no such version; no such alias


def read_version(tracking_uri: str, name: str, version: str) -> Picked:
    """The version of ``name`` with this number or this alias.

    Raises:
        RefusedModel: there is none, or it was not registered by a flow that can release it.
    """
    uri = tracking_uri.rstrip("/")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = find_version(client, name, version)
    number, run_id = str(found.version), str(found.run_id)
    scorecard = _scorecard(client, run_id, f"{name} {number}")
    aliases = [alias for alias in (CHAMPION, CHALLENGER) if alias in found.aliases]
    registered = RegisteredModel(
        name=name,
        version=number,
        alias=aliases[0] if aliases else "",
        model=scorecard.candidate_model,
        run_id=run_id,
        url=Registry(uri).version_url(name, number),
        exported=scorecard.exported_model,
    )
    return Picked(registered=registered, original=scorecard.baseline_model, data=_dataset(client, run_id))


def read_scorecard(tracking_uri: str, name: str, version: str) -> tuple[Scorecard, str]:
    """The scorecard of a version, and the run that it stands in.

    Raises:
        RefusedModel: there is no such version, or it has none of a language model.
    """
    uri = tracking_uri.rstrip("/")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run_id = str(find_version(client, name, version).run_id)
    return _scorecard(client, run_id, f"{name} {version}"), run_id


def find_version(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """The version by its number or its alias.

    Raises:
        RefusedModel: there is none.
    """
    try:
        if version.isdigit():
            return client.get_model_version(name, version)
        return client.get_model_version_by_alias(name, version)
    except MlflowException as error:
        if error.error_code not in _UNKNOWN:
            raise
        raise RefusedModel(
            f"MLflow has no version {version} of {name}",
            observed=f"{error.message}; {_registered(client, name)}",
            limit="a version's number, or an alias: champion, challenger, previous",
            remedy="look at the model's page in MLflow, or compress first: it registers a challenger",
        ) from error


def find_aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Where each alias of the registered model is now.

    Raises:
        RefusedModel: there is no such model; with those that there are.
    """
    found = _aliases(client, name)
    if found is None:
        raise RefusedModel(
            f"MLflow has no registered model {name!r}", observed=_registered(client, name),
            limit="the name of a registered model, not of an endpoint",
            remedy="look at MLflow's page of models, or compress first: it registers one",
        )  # fmt: skip
    return found


def find_models(client: MlflowClient) -> list[str]:
    """The names of the first registered models."""
    return [str(each.name) for each in client.search_registered_models(max_results=_NAMED)]


def _aliases(client: MlflowClient, name: str) -> dict[str, str] | None:
    """None where there is no such model."""
    try:
        return {str(alias): str(at) for alias, at in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code not in _UNKNOWN:
            raise
        return None


def _registered(client: MlflowClient, name: str) -> str:
    """What there is instead, in words: the model's versions and aliases, else the models."""
    aliases = _aliases(client, name)
    if aliases is None:
        return f"there is no such model; registered are {', '.join(find_models(client)) or 'none'}"
    versions = client.search_model_versions(of_model(name), order_by=["version_number DESC"], max_results=_NAMED)
    if not versions:
        return "the model has no versions"
    held = [f"{alias} is {number}" for alias, number in sorted(aliases.items())]
    return "; ".join([f"its newest versions are {', '.join(str(each.version) for each in versions)}", *held])


def _scorecard(client: MlflowClient, run_id: str, what: str) -> Scorecard:
    """The scorecard that a run logged; ``what`` names the version in an error.

    Raises:
        RefusedModel: there is none of a language model.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(client.download_artifacts(run_id, "scorecard.json", folder))
            return Scorecard.model_validate_json(path.read_text())
        except (ValidationError, OSError) as error:
            raise RefusedModel(
                f"{what} has no scorecard of a language model",
                observed=f"run {run_id}: {type(error).__name__}",
                limit="a version that the compress flow has registered; readers have no release yet",
                remedy="choose another version, or compress the model again",
            ) from error


def _dataset(client: MlflowClient, run_id: str) -> DatasetRef:
    inputs = client.get_run(run_id).inputs
    entity = inputs.dataset_inputs[0].dataset if inputs else None
    if entity is None or not entity.profile:
        raise RefusedModel(
            "the version's run names no data set", observed=f"run {run_id}", limit="the data set of a compress run",
            remedy="compress the model again",
        )  # fmt: skip
    source = json.loads(entity.source)
    counts = json.loads(entity.profile)
    return DatasetRef(
        uri=source["uri"],
        digest=source["sha256"],
        licence=source["licence"],
        name=source.get("name", entity.name),
        **counts,
    )
