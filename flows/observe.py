"""An endpoint's metrics and alarms → a verdict, a report, and an event that can set off a restore."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Completed

from tasks.deploy import endpoint_page
from tasks.monitoring_contracts import Observed
from tasks.monitoring_plan import ObserveRules
from tasks.observe import look_and_judge, record_observed, tell
from tasks.plans import EndpointName
from tasks.set_off import set_off_retraining


@flow(name="observe", flow_run_name="observe-{endpoint}")
def observe(endpoint: EndpointName = "slimline-demo", rules: ObserveRules = ObserveRules()) -> State[Observed]:
    """See how an endpoint does: against the window before, and against the scorecard of the version that it serves.

    Changes nothing itself: what a degraded endpoint sets off is an automation's, by the event.

    Args:
        endpoint: The endpoint.
        rules: What is compared, what counts as degraded, and what then happens.
    """
    found = look_and_judge(endpoint, rules)
    record_observed(found, endpoint_page(endpoint))
    tell(found)
    if found.act == "retrain":
        set_off_retraining(found)
    # Named by what was found: in a list of runs, one that completed without data must not look like good news.
    return Completed(name=found.state.capitalize(), message=found.reason, data=found)
