"""Batch transform of a registered version: nothing starts before every record was looked at, nothing is done twice."""

from __future__ import annotations

from prefect.artifacts import create_table_artifact

from tasks.adapters.batch_requests import output_uri
from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.store import Store
from tasks.batch_plan import BatchJob, BatchPlan, BatchResult, InputObject
from tasks.cloud import sagemaker
from tasks.contracts import ModelPackage, RegisteredModel
from tasks.deploy import served
from tasks.errors import BatchFailed
from tasks.following import Show, poll_seconds, ticks
from tasks.plans import ReleasePlan
from tasks.preflight import require_mlflow
from tasks.retrying import network_task
from tasks.runpages import on_top
from tasks.settings import settings
from tasks.workbench import Progress

_WAIT_SECONDS = 60.0  # of the service's clock: a quarter of it passes between two looks, at most two seconds of ours


@network_task("preflight-batch")
def preflight_batch(batch: BatchPlan) -> tuple[InputObject, ...]:
    """Check the plan, then every record of the input. Returns what is there.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    require_mlflow()
    cloud = sagemaker()
    cloud.check_batch(batch, settings().image)
    return cloud.batches.inputs(batch)


@network_task("archive-{registered.name}-{registered.version}")
def archive(registered: RegisteredModel, batch: BatchPlan) -> ModelPackage:
    """Upload the version as one archive, the only form that batch transform takes; one that is there is not sent again.

    Raises:
        RefusedRequest: the plan asks for the exported folder of a version that has none.
    """
    model = served(registered, ReleasePlan(instance_type=batch.instance_type, serve=batch.serve))
    folder = Store(settings().store).open(model.uri, model.digest)
    s3_uri = sagemaker().upload_archive(folder, model.digest)
    return ModelPackage(registered=registered, s3_uri=s3_uri, image=settings().image, digest=model.digest)


@network_task("transform-{package.registered.name}-{package.registered.version}")
def transform(package: ModelPackage, batch: BatchPlan, objects: tuple[InputObject, ...]) -> BatchJob:
    """Run the job and wait until it has ended. Tried again it finds the job that runs, or the answers that are there.

    Raises:
        BatchFailed: with SageMaker's FailureReason and what to do.
    """
    return run_job(sagemaker(), package, batch, objects, Progress("transform").show)


def run_job(
    cloud: SageMaker, package: ModelPackage, batch: BatchPlan, objects: tuple[InputObject, ...], show: Show
) -> BatchJob:
    """As ``transform``."""
    attempt = cloud.batches.begin(package, batch, objects)
    poll = poll_seconds(_WAIT_SECONDS, cloud.clock_speed)
    for _ in ticks(cloud, cloud.now(), batch.patience_seconds, poll):
        job = cloud.batches.ended(attempt)
        if job is not None:
            cloud.batches.forget_model(package, batch, objects)
            return job
        there = len(objects) - len(cloud.batches.missing(batch, objects))
        show(there / len(objects), f"{attempt.name}: {there} of {len(objects)} objects")
    raise BatchFailed(
        f"transform job {attempt.name} still runs", observed=f"{batch.patience_seconds} s are over", limit="Completed",
        remedy="run again with the same plan: it finds the job and waits on; or raise batch.patience_seconds",
    )  # fmt: skip


@network_task("verify-{job.name}")
def verify(job: BatchJob, package: ModelPackage, batch: BatchPlan, objects: tuple[InputObject, ...]) -> BatchResult:
    """See an answer to every record, and show what there is on the run's page.

    Raises:
        BatchFailed: a record has none.
    """
    result = count(sagemaker(), job, package, batch, objects)
    create_table_artifact(
        [{"input": each.key, "records": each.records, "answers": output_uri(batch, each.key)} for each in objects],
        key="batch-objects",
        description=f"**{job.name}**: {result.records} records in {len(objects)} objects",
    )
    on_top("batch", batch_markdown(result), "Records, answers, time")
    return result


def count(
    cloud: SageMaker, job: BatchJob, package: ModelPackage, batch: BatchPlan, objects: tuple[InputObject, ...]
) -> BatchResult:
    """As ``verify``, without the page."""
    return BatchResult(
        job=job.name,
        model=package.registered.name,
        version=package.registered.version,
        output=batch.output,
        objects=len(objects),
        records=cloud.batches.count_answers(batch, objects),
        seconds=job.seconds,
        reused=job.reused,
        rehearsal=cloud.describe_rehearsal(),
    )


def batch_markdown(result: BatchResult) -> str:
    """The result as it stands on the Prefect page and in the terminal."""
    lines = [
        f"# Batch: {result.records:,} records, {result.records:,} answers",
        f"- job `{result.job}` on {result.model} {result.version}: {result.objects} objects in {result.seconds:.0f} s",
        f"- answers below `{result.output}`",
    ]
    if result.reused:
        lines.append("- an earlier run of the very same request had done it; nothing was computed again")
    return "\n".join([*lines, *([f"- {result.rehearsal}"] if result.rehearsal else [])])
