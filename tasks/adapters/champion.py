"""The champion of a registered model, with the evidence of its registration."""

from __future__ import annotations

from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.adapters.lineage import read_scorecard
from tasks.adapters.registry import CHAMPION, Registry
from tasks.contracts import Champion

EVIDENCE = "evaluation"  # folder of a run's artifacts


def read_champion(tracking_uri: str, name: str) -> Champion | None:
    """The champion of ``name``; none where there is none.

    Raises:
        RefusedModel: its run has no scorecard of a language model.
    """
    uri = tracking_uri.rstrip("/")
    version = Registry(uri).version_by_alias(name, CHAMPION)
    if version is None:
        return None
    scorecard, run_id = read_scorecard(uri, name, version)
    return Champion(label=f"{name} {version}", run_id=run_id, scorecard=scorecard)


def fetch_items(tracking_uri: str, run_id: str, scratch: Path) -> Path | None:
    """Download a run's results item by item below ``scratch``; none where it has none."""
    uri = tracking_uri.rstrip("/")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        if not client.list_artifacts(run_id, EVIDENCE):
            return None
        return Path(client.download_artifacts(run_id, EVIDENCE, str(scratch)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
