"""A version that MLflow has already: pick it, release it."""

from __future__ import annotations

from prefect import flow

from flows.release import release
from tasks.contracts import Rollout
from tasks.pick import pick, preflight_release
from tasks.plans import ReleasePlan
from tasks.recipes import ModelName


@flow(name="release-version", flow_run_name="{model}-{version}-{plan.mode}")
def release_version(
    model: ModelName = "slimline", version: str = "challenger", plan: ReleasePlan = ReleasePlan()
) -> Rollout:
    """Release a registered version by any mode.

    Args:
        model: Name of the registered model in MLflow.
        version: A version's number, or an alias (champion, challenger, previous).
        plan: How live traffic moves to it.
    """
    preflight_release(plan)
    picked = pick(model, version)
    return release(picked.registered, picked.original, picked.data, plan)
