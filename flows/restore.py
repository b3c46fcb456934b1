"""The last good version back; or, after a crash, a release that died brought to its end."""

from __future__ import annotations

from prefect import flow

from tasks.contracts import Settled
from tasks.deploy import endpoint_page
from tasks.leave import leave, why_left, why_not_degraded
from tasks.monitor import monitor
from tasks.plans import EndpointName, ReleasePlan
from tasks.record import record_restore
from tasks.restore import bring_back, finish, plan_of, require_answer
from tasks.runpages import release_of
from tasks.slots import alone_on


@flow(name="restore", flow_run_name="restore-{endpoint}{crashed_run}")
def restore(endpoint: EndpointName = "slimline-demo", crashed_run: str = "", degraded_config: str = "") -> Settled:
    """Bring the last good version of an endpoint back, verified by its config's name and a real inference.

    Asked twice, it moves nothing the second time. A rollout that SageMaker still runs is watched to its end first.

    Args:
        endpoint: The endpoint; not asked where a crashed run is given.
        crashed_run: Id of a flow run that died, failed or was cancelled in a release: its endpoint is brought to the
            end that SageMaker's guard and the evidence decide, new version or old. What an undecided release leaves
            for a person (judge.undecided = stuck) stays as it is. The automations fill this in.
        degraded_config: Name of the config that an observation found degraded: where another one serves by now, or is
            on its way, nothing moves. The automations fill this in.
    """
    plan = plan_of(crashed_run) if crashed_run else ReleasePlan(endpoint=endpoint)
    with alone_on(plan.endpoint):
        if crashed_run:
            reason = why_left(release_of(crashed_run), plan)
        else:
            reason = why_not_degraded(degraded_config, plan) if degraded_config else ""
        settled = leave(plan, reason) if reason else finish(plan) if crashed_run else bring_back(plan)
    record_restore(settled, endpoint_page(plan.endpoint))
    if crashed_run and settled.action in ("finished", "unchanged"):  # it may have died before its guards were made
        monitor(plan)
    require_answer(settled)
    return settled
