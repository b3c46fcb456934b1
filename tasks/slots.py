"""One release at a time on an endpoint, and no waiting for a run that has died."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.variables import Variable

from tasks.adapters.owners import is_alive, is_here, owner

LEASE_SECONDS = 60.0  # the least that Prefect grants; renewed at three quarters of it
LOOK_SECONDS = 2.0
_log = logging.getLogger(__name__)


@contextmanager
def alone_on(endpoint: str) -> Iterator[None]:
    """Hold the endpoint's slot: a second release of the same endpoint waits until the first has ended.

    The limit is made here and not at deployment, because the endpoint's name is a parameter. A run that is killed
    cannot give its slot back; so who holds it is written beside it (a Prefect variable), and the next run takes it from
    a dead one at once. A live run whose lease Prefect could not renew goes on, for to stop it would leave traffic
    without a judge; what is written beside the slot then keeps the next one out.
    """
    name = f"slimline-endpoint-{endpoint}"
    note = "slimline_slot_" + re.sub(r"[^a-z0-9]", "_", endpoint.lower())
    with get_client(sync_client=True) as client, ExitStack() as stack:
        client.upsert_global_concurrency_limit_by_name(name, 1)
        while _is_held(client, note) or not _taken(stack, name):
            time.sleep(LOOK_SECONDS)
        mine = _write_holder(note)
        try:
            yield
        finally:
            if mine and Variable.get(note) == mine:
                Variable.unset(note)


def _taken(stack: ExitStack, name: str) -> bool:
    """Ask for the slot once; whether it is ours now."""
    try:
        held = concurrency(
            name, strict=True, lease_duration=LEASE_SECONDS, max_retries=0, raise_on_lease_renewal_failure=False
        )
        stack.enter_context(held)
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED:
            return False
        raise
    return True


def _write_holder(note: str) -> dict[str, str] | None:
    held = ConcurrencyContext.get()
    if held is None or not held.cleanup_lease_ids:
        return None  # outside a flow run: the lease alone decides
    holder = {"lease": str(held.cleanup_lease_ids[-1]), "owner": owner(), "run": str(flow_run.root_flow_run_id or "")}
    Variable.set(note, holder, overwrite=True)
    return holder


def _is_held(client: SyncPrefectClient, note: str) -> bool:
    """Whether a live run has the slot, with a lease or without. The lease of a dead one is ended."""
    holder = Variable.get(note)
    if not isinstance(holder, dict):
        return False
    if not _is_dead(client, str(holder["owner"]), str(holder["run"])):
        return True
    _log.warning("the run %s died while it held %s: its slot is taken over", holder["run"], note)
    client.release_concurrency_slots_with_lease(UUID(str(holder["lease"])))
    Variable.unset(note)  # a second waiting run must not end the lease of the first
    return False


def _is_dead(client: SyncPrefectClient, process: str, run: str) -> bool:
    """Of a process on this host the system knows; of another host's, only Prefect: whether the run has ended."""
    if is_here(process):
        return not is_alive(process)
    try:
        state = client.read_flow_run(UUID(run)).state
    except (ObjectNotFound, ValueError):
        return True
    return state is not None and state.is_final()
