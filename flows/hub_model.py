"""A model of SageMaker's public hub (JumpStart) as an endpoint of its own, such as the baseline of later releases."""

from __future__ import annotations

from prefect import flow

from tasks.contracts import Settled
from tasks.deploy import create_endpoint, endpoint_page, is_new, package_hub
from tasks.pick import preflight_hub
from tasks.plans import ReleasePlan
from tasks.reporting import report_restore
from tasks.restore import require_answer
from tasks.serve_hub import told
from tasks.slots import alone_on


@flow(name="hub-model", flow_run_name="{plan.target.jumpstart.model_id}-{plan.endpoint}")
def hub_model(plan: ReleasePlan = ReleasePlan()) -> Settled:
    """Create an endpoint that serves a hub model, and ask it a real question with the plan's payload parameters.

    Args:
        plan: endpoint, instances, and target jumpstart with its model id. An endpoint that exists is left as it is.
    """
    preflight_hub(plan)
    with alone_on(plan.endpoint):
        package = package_hub(plan)
        created = is_new(plan)
        if created:
            create_endpoint(package, plan)
        settled = told(package, plan, created)
    report_restore(settled, endpoint_page(plan.endpoint))
    require_answer(settled)
    return settled
