"""Apply ``automations.yaml`` to the Prefect server of ``PREFECT_API_URL``: ``python -m deployments.automations``.

Prefect's own `prefect automation create --from-file` would make a second one of the same name each time, and knows
deployments by id only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore

FILE = Path(__file__).with_name("automations.yaml")


def apply(file: Path = FILE) -> list[str]:
    """Create every automation of ``file``, or replace it where it has changed; returns their names.

    One that is the same is left alone: replaced, it would forget which runs it waits to hear from, and a run that died
    before a restart would never be called crashed.

    Raises:
        prefect.exceptions.ObjectNotFound: a deployment that an action names is not registered.
    """
    wanted = yaml.safe_load(file.read_text())["automations"]
    with get_client(sync_client=True) as client:
        for each in wanted:
            for action in each["actions"]:
                _resolve(client, action)
        for each in wanted:
            _replace(client, each)
    return [str(each["name"]) for each in wanted]


def _resolve(client: SyncPrefectClient, action: dict[str, Any]) -> None:
    if name := action.pop("deployment", None):
        action["deployment_id"] = str(client.read_deployment_by_name(name).id)


def _replace(client: SyncPrefectClient, wanted: dict[str, Any]) -> None:
    made, same = AutomationCore.model_validate(wanted), False
    for known in client.read_automations_by_name(made.name):
        if not same and _plain(known) == _plain(made):
            same = True
        else:
            client.delete_automation(known.id)
    if not same:
        client.create_automation(made)


def _plain(automation: AutomationCore) -> Any:
    """What was written, without the ids that the server gives; sets in order."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(each) for key, each in value.items() if key != "id"}
        if isinstance(value, list):
            return sorted((cleaned(each) for each in value), key=str)
        return value

    return cleaned(automation.model_dump(mode="json", include=set(AutomationCore.model_fields)))


if __name__ == "__main__":
    print("\n".join(apply()))
