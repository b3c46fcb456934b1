"""Register the work pool, every deployment of ``prefect.yaml`` and the automations with the Prefect server of
``PREFECT_API_URL``: ``python -m deployments.registration``, on the machine, with the Python and in the folder of the
worker, since pool and deployments name both. What is there already is replaced by what the files say.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.utilities.processutils import command_to_string
from prefect.workers.process import ProcessWorker

from deployments import automations
from deployments.local.stack import POOL

FILE = Path(__file__).with_name("prefect.yaml")


def job_template() -> dict[str, Any]:
    """The process worker's own template, with ``deployments/engine.py`` as the command that starts a run."""
    template: dict[str, Any] = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = command_to_string(
        [sys.executable, "-m", "deployments.engine"]
    )
    return template


def register() -> None:
    """Pool, deployments, automations, in this order: each names what comes before it. A pool of another type, such as
    one on ECS, stays as it is.

    Raises:
        SystemExit: Prefect refused a deployment; the reason has been printed.
        prefect.exceptions.PrefectHTTPStatusError: the server refused the pool or an automation.
    """
    with get_client(sync_client=True) as client:
        _make_pool(client)
    _deploy()
    automations.apply()


def _make_pool(client: SyncPrefectClient) -> None:
    try:
        kind = client.read_work_pool(POOL).type
    except ObjectNotFound:
        kind = ProcessWorker.type
    if kind == ProcessWorker.type:
        made = WorkPoolCreate(name=POOL, type=kind, base_job_template=job_template())
        client.create_work_pool(made, overwrite=True)


def _deploy() -> None:
    """``prefect deploy``, which has no other interface, in this process: another would import Prefect once more."""
    before = sys.argv
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    try:
        runpy.run_module("prefect", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


if __name__ == "__main__":
    register()
