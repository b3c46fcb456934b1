"""What an endpoint with a hub model serves, verified by its config's name and a real inference."""

from __future__ import annotations

from tasks.cloud import sagemaker
from tasks.contracts import ModelPackage, Settled
from tasks.errors import ReleaseStuck
from tasks.plans import ReleasePlan
from tasks.retrying import network_task
from tasks.watch import answer_of


@network_task("ask-{plan.endpoint}")
def told(package: ModelPackage, plan: ReleasePlan, created: bool) -> Settled:
    """The endpoint as it is.

    Raises:
        ReleaseStuck: it serves something else, which is left as it is.
    """
    cloud = sagemaker()
    serves, wanted = cloud.serving_config(plan.endpoint), cloud.config_name(package, plan)
    if serves != wanted:
        raise ReleaseStuck(
            f"endpoint {plan.endpoint} serves something else", observed=str(serves), limit=wanted,
            remedy="name another plan.endpoint; to move an endpoint to a version of yours, release it",
        )  # fmt: skip
    answer, answered = answer_of(cloud, plan)
    registered = package.registered
    return Settled(
        endpoint=plan.endpoint,
        action="created" if created else "unchanged",
        config=serves,
        version=registered.version,
        reason=f"it serves {registered.name} {registered.version} of SageMaker's public hub",
        probe=answer,
        answered=answered,
        rehearsal=cloud.describe_rehearsal(plan.endpoint),
    )
