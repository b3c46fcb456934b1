"""Apply ``automations.yaml`` to the Prefect server of ``PREFECT_API_URL``: ``python -m deployments.automations``.

Prefect's own `prefect automation create --from-file` would make a second one of the same name each time, and knows
deployments by id only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client

FILE = Path(__file__).with_name("automations.yaml")


def apply(file: Path = FILE) -> list[str]:
    """Create or replace every automation of ``file``; returns their names.

    Raises:
        prefect.exceptions.ObjectNotFound: a deployment that an action names is not registered.
    """
    wanted = yaml.safe_load(file.read_text())["automations"]
    with get_client(sync_client=True) as client:
        for each in wanted:
            for action in each["actions"]:
                _resolve(client, action)
    for each in wanted:
        _replace(each)
    return [str(each["name"]) for each in wanted]


def _resolve(client: SyncPrefectClient, action: dict[str, Any]) -> None:
    if name := action.pop("deployment", None):
        action["deployment_id"] = str(client.read_deployment_by_name(name).id)


def _replace(wanted: dict[str, Any]) -> None:
    made = Automation.model_validate(wanted)
    try:
        known = Automation.read(name=made.name)
    except ValueError:
        made.create()
        return
    made.id = known.id
    made.update()


if __name__ == "__main__":
    print("\n".join(apply()))
