"""Ask the registry what is champion now."""

from __future__ import annotations

from tasks.adapters.champion import read_champion
from tasks.contracts import Champion
from tasks.retrying import network_task
from tasks.settings import settings


@network_task("champion-of-{name}")
def find_champion(name: str) -> Champion | None:
    """The champion of the registered model ``name``, where there is one. Never cached: an alias moves.

    Raises:
        RefusedModel: its run has no scorecard of a language model.
    """
    return read_champion(settings().mlflow_url, name)
