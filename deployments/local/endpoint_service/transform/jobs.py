"""The SageMaker operations on transform jobs, and their rules.

Source: CreateTransformJob in the API reference and "Use batch transform" in the developer guide.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.control import listed
from deployments.local.endpoint_service.deploying import quota
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.starting import Tools
from deployments.local.endpoint_service.state import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    STOPPED,
    STOPPING,
    State,
    TransformJob,
)
from deployments.local.endpoint_service.transform.run import S3, Failed, Run
from deployments.local.endpoint_service.wire import AwsError, Json, epoch, invalid, not_implemented

log = logging.getLogger("slimline.transform")

_MOST_MB = 100  # of MaxPayloadInMB, alone and times MaxConcurrentTransforms


class TransformJobs:
    """One method an operation. A job runs as one task (``TransformJob.task``)."""

    def __init__(self, state: State, tools: Tools, s3: S3) -> None:
        self._state = state
        self._tools = tools
        self._s3 = s3
        self._clock: Clock = tools.clock
        self.operations: dict[str, Callable[[Json], Json]] = {
            "CreateTransformJob": self.create,
            "DescribeTransformJob": self.describe,
            "ListTransformJobs": self.list,
            "StopTransformJob": self.stop_job,
        }

    def create(self, request: Json) -> Json:
        check(request)
        name = request["TransformJobName"]
        arn = self._state.arn("transform-job", name)
        if name in self._state.transforms:
            raise AwsError(
                "ResourceInUse",
                f"Job name must be unique within an AWS account and region, and a transform job with this name already "
                f"exists ({arn})",
            )
        model = self._state.model(request["ModelName"])
        if model.container.get("ModelDataSource"):
            raise invalid(
                f"Model {model.name} has a ModelDataSource, which batch transform does not support. Use ModelDataUrl."
            )
        count = request["TransformResources"]["InstanceCount"]
        quota(self._state, self._tools, count, "transform job usage")
        self._state.set_tags(arn, request.get("Tags", []))
        now = self._clock.now()
        job = self._state.transforms[name] = TransformJob(name, arn, now, now, request, model)
        self.begin(job)
        return {"TransformJobArn": arn}

    def begin(self, job: TransformJob) -> None:
        """Start a job's work; a service that has come back does it again from the beginning."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()):
                log.error("transform job %s broke", job.name, exc_info=error)
                self._end(job, FAILED, f"InternalServerError: {error!r}")

        job.task = asyncio.get_running_loop().create_task(self._work(job))
        job.task.add_done_callback(ended)

    async def _work(self, job: TransformJob) -> None:
        job.started = job.started or self._clock.now()
        try:
            await Run(job, self._tools, self._s3).run()
        except Failed as error:
            self._end(job, FAILED, str(error))
        except asyncio.CancelledError:
            if job.status != STOPPING:
                raise  # the service is going away
            self._end(job, STOPPED)
        else:
            self._end(job, COMPLETED)

    def _end(self, job: TransformJob, status: str, failure: str | None = None) -> None:
        job.status, job.failure = status, failure[:1024] if failure else None
        job.ended = job.modified = self._clock.now()

    def describe(self, request: Json) -> Json:
        job = self._job(request)
        shown = {key: value for key, value in job.request.items() if key != "Tags"} | _summary(job)
        if job.started is not None:
            shown["TransformStartTime"] = epoch(job.started)
        shown.pop("LastModifiedTime")
        return shown

    def list(self, request: Json) -> Json:
        found = listed(self._state.transforms.values(), request)
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", 10))
        return {"TransformJobSummaries": [_summary(job) for job in items]} | token

    def stop_job(self, request: Json) -> Json:
        job = self._job(request)
        if job.status == STOPPING:
            return {}
        if job.status != IN_PROGRESS or job.task is None:
            raise invalid(f"The request was rejected because the transform job is in status {job.status}.")
        job.status, job.modified = STOPPING, self._clock.now()
        job.task.cancel()
        return {}

    def revive(self) -> None:
        """After a restart: what was under way starts again, what was stopping has stopped."""
        for job in self._state.transforms.values():
            if job.status == STOPPING:
                self._end(job, STOPPED)
            elif job.status == IN_PROGRESS:
                self.begin(job)

    async def stop(self) -> None:
        """End every job's work; the service is going away, and begins them again when it comes back."""
        tasks = [job.task for job in self._state.transforms.values() if job.task and not job.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _job(self, request: Json) -> TransformJob:
        name = request["TransformJobName"]
        if name not in self._state.transforms:
            raise invalid(f"Could not find requested job with name: {name}")
        return self._state.transforms[name]


def _summary(job: TransformJob) -> Json:
    shown: Json = {
        "TransformJobName": job.name,
        "TransformJobArn": job.arn,
        "CreationTime": epoch(job.created),
        "LastModifiedTime": epoch(job.modified),
        "TransformJobStatus": job.status,
    }
    if job.ended is not None:
        shown["TransformEndTime"] = epoch(job.ended)
    return shown | ({"FailureReason": job.failure} if job.failure else {})


def check(request: Json) -> None:
    """The rules of CreateTransformJob beyond its shapes. What could not be honoured answers 501."""
    source, output = request["TransformInput"], request["TransformOutput"]
    data = source["DataSource"]["S3DataSource"]
    if data["S3DataType"] != "S3Prefix":
        raise not_implemented(f"CreateTransformJob: S3DataType {data['S3DataType']}", "S3Prefix is.")
    if source.get("SplitType", "None") not in ("None", "Line"):
        raise not_implemented(f"CreateTransformJob: SplitType {source['SplitType']}", "None and Line are.")
    processing = request.get("DataProcessing") or {}
    if any(value not in ("$", "None") for value in processing.values()):
        raise not_implemented(f"CreateTransformJob: DataProcessing {', '.join(sorted(processing))}")
    for name in ("DataCaptureConfig", "ExperimentConfig"):
        if request.get(name):
            raise not_implemented(f"CreateTransformJob: {name}")
    for member, uri in (("S3Uri", data["S3Uri"]), ("S3OutputPath", output["S3OutputPath"])):
        if not uri.startswith("s3://"):
            raise invalid(f"{member} {uri} must be an S3 URI: s3://bucket/prefix.")
    size, parallel = request.get("MaxPayloadInMB", 0), request.get("MaxConcurrentTransforms", 0)
    if size * max(1, parallel) > _MOST_MB:
        raise invalid(
            f"MaxPayloadInMB and MaxConcurrentTransforms * MaxPayloadInMB must not exceed {_MOST_MB} MB: {size} MB and "
            f"{parallel or 1} given."
        )
