"""Read a registered version back from MLflow, to release it."""

from __future__ import annotations

from tasks.adapters.lineage import read_version
from tasks.cloud import sagemaker
from tasks.contracts import Picked
from tasks.plans import ReleasePlan
from tasks.preflight import require_mlflow
from tasks.pricing import check_prices, report_planned
from tasks.retrying import network_task
from tasks.settings import settings


@network_task("preflight-{plan.endpoint}")
def preflight_release(plan: ReleasePlan) -> None:
    """Check the plan before anything is read or moved.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    require_mlflow()
    check_prices()
    sagemaker().check_plan(plan)
    report_planned(plan)


@network_task("pick-{name}-{version}")
def pick(name: str, version: str) -> Picked:
    """A version by its number or its alias, with its original and its data set.

    Raises:
        RefusedModel: there is no such version, or it is a reader's, which has no release yet.
    """
    return read_version(settings().mlflow_url, name, version)


@network_task("preflight-{plan.endpoint}")
def preflight_hub(plan: ReleasePlan) -> None:
    """Check the plan of a hub model, which needs no MLflow.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    sagemaker().check_plan(plan)
