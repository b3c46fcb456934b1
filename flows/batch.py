"""Records in S3 through a registered version, answers in S3; no endpoint."""

from __future__ import annotations

from prefect import flow

from tasks.batch import archive, preflight_batch, transform, verify
from tasks.batch_plan import BatchPlan, BatchResult
from tasks.pick import pick
from tasks.recipes import ModelName


@flow(name="batch", flow_run_name="batch-{model}-{version}")
def batch_transform(
    model: ModelName = "slimline", version: str = "champion", batch: BatchPlan = BatchPlan()
) -> BatchResult:
    """Answer every record below an S3 prefix, and see that each one has its answer.

    Asked twice, the same version on the same objects is computed once.

    Args:
        model: Name of the registered model in MLflow.
        version: A version's number, or an alias (champion, challenger, previous).
        batch: Where the records are, where the answers go, and on what they are computed.
    """
    objects = preflight_batch(batch)
    package = archive(pick(model, version).registered, batch)
    job = transform(package, batch, objects)
    return verify(job, package, batch, objects)
