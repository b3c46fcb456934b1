"""One transform job's work: model servers, objects in, answers out.

Every object is one or more requests to ``POST /invocations``; its output is uploaded only when all were answered. An
object that fails does not hold the others, and the job is Failed at its end. What the container says at
``GET /execution-parameters``, which is optional, fills in what the request leaves out.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from deployments.local.endpoint_service.images import NoRuntime
from deployments.local.endpoint_service.modeldata import NoModelData, list_objects, split
from deployments.local.endpoint_service.starting import STARTUP_SECONDS, Tools, all_of, program, rehearsed_start
from deployments.local.endpoint_service.state import STOPPING, TransformJob
from deployments.local.endpoint_service.transform.invocations import MB, Invocations, Limits, ObjectFailed
from deployments.local.endpoint_service.transform.records import TooLong, output_key, payloads
from deployments.local.endpoint_service.wire import Json
from deployments.local.endpoint_service.workers import KILL_SECONDS, Worker, WorkerFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LEAVING_SECONDS = 2.0  # between SIGTERM and SIGKILL when the service itself goes
_LOGS = "See job logs for more information"  # the whole of what AWS says


class Failed(Exception):
    """The job has failed; the text is a FailureReason."""


@dataclass(frozen=True)
class S3:
    """The service's own S3, and what to call after a write."""

    client: Callable[[], S3Client]
    changed: Callable[[], None]


class Run:
    """Runs a job once."""

    def __init__(self, job: TransformJob, tools: Tools, s3: S3) -> None:
        self._job = job
        self._request = job.request
        self._tools = tools
        self._client = s3.client()
        self._changed = s3.changed
        self._log = tools.logs / "transform" / job.name

    async def run(self) -> None:
        """Do everything. Raises ``Failed``. No model server is left, whatever happens."""
        self._log.mkdir(parents=True, exist_ok=True)
        objects = deque(await self._objects())
        workers: list[Worker] = []
        scratch, grace = self._log / "scratch", KILL_SECONDS
        shutil.rmtree(scratch, ignore_errors=True)  # of a service that was killed
        scratch.mkdir()
        try:
            await self._start(workers)
            limits = Limits.of(self._request, await self._parameters(workers[0]))
            self._say(
                f"MaxConcurrentTransforms={limits.parallel}, MaxPayloadInMB={limits.payload // MB}, "
                f"BatchStrategy={'MULTI_RECORD' if limits.many else 'SINGLE_RECORD'}"
            )
            failures: list[ObjectFailed] = []
            await all_of(self._instance(worker, limits, objects, scratch, failures) for worker in workers)
            if failures:
                raise Failed(f"{failures[0].kind}: {_LOGS}. ({failures[0]})")
        except asyncio.CancelledError:
            grace = KILL_SECONDS if self._job.status == STOPPING else _LEAVING_SECONDS
            raise
        finally:
            await asyncio.gather(*(worker.stop(grace) for worker in workers))
            shutil.rmtree(scratch, ignore_errors=True)

    async def _objects(self) -> list[str]:
        uri = self._request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        bucket, prefix = split(uri)
        try:
            found = await asyncio.to_thread(list_objects, self._client, bucket, prefix)
        except (ClientError, BotoCoreError) as error:
            raise Failed(f"ClientError: Failed to list {uri}: {error}") from error
        if not found:
            raise Failed(
                f'ClientError: No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that '
                "the bucket exists in the selected region and that objects exist under that S3 prefix."
            )
        return [item["Key"] for item in found]

    async def _start(self, workers: list[Worker]) -> None:
        resources, model = self._request["TransformResources"], self._job.model
        given = {
            f"SAGEMAKER_{name}": str(self._request[member])
            for name, member in (
                ("MAX_CONCURRENT_TRANSFORMS", "MaxConcurrentTransforms"),
                ("MAX_PAYLOAD_IN_MB", "MaxPayloadInMB"),
                ("BATCH_STRATEGY", "BatchStrategy"),
            )
            if self._request.get(member) is not None
        }
        environment = {"SAGEMAKER_BATCH": "true", **given, **self._request.get("Environment", {})}
        try:
            made = await program(self._tools, model, STARTUP_SECONDS, environment)
            for index in range(resources["InstanceCount"]):
                log = self._log / f"instance-{index}.log"
                workers.append(Worker(self._job.name, made, log, self._tools.reaper))
            await all_of(self._launch(worker) for worker in workers)
        except (NoRuntime, NoModelData) as error:
            raise Failed(f"ClientError: {error}") from error
        except (WorkerFailed, OSError) as error:
            self._say(str(error))
            raise Failed(f"AlgorithmError: {_LOGS}. (The model server did not become healthy: {self._log})") from error

    async def _launch(self, worker: Worker) -> None:
        await rehearsed_start(self._tools.faults, job=self._job.name)
        async with self._tools.starts:
            await worker.start(self._tools.client)

    async def _parameters(self, worker: Worker) -> Json:
        """What the container wants; nothing where it does not say."""
        limit = aiohttp.ClientTimeout(total=10)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with self._tools.client.get(f"{worker.url}/execution-parameters", timeout=limit) as answer:
                if answer.status == 200:
                    said = await answer.json(content_type=None)
                    return said if isinstance(said, dict) else {}
        return {}

    async def _instance(
        self, worker: Worker, limits: Limits, objects: deque[str], scratch: Path, failures: list[ObjectFailed]
    ) -> None:
        """One instance takes objects until none is left, ``parallel`` requests at a time."""
        invocations = Invocations(self._job, self._tools, worker, limits.parallel)

        async def take() -> None:
            while objects:
                key = objects.popleft()
                folder = Path(tempfile.mkdtemp(dir=scratch))
                try:
                    await self._object(invocations, limits, key, folder)
                except ObjectFailed as error:
                    self._say(f"{key}: {error.kind}: {error}")
                    failures.append(error)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

        await all_of(take() for _ in range(limits.parallel))

    async def _object(self, invocations: Invocations, limits: Limits, key: str, folder: Path) -> None:
        """Bring one object here, ask for each payload in order, and upload the answers."""
        source, output = self._request["TransformInput"], self._request["TransformOutput"]
        bucket, prefix = split(source["DataSource"]["S3DataSource"]["S3Uri"])
        to_bucket, to_prefix = split(output["S3OutputPath"])
        content, answers = folder / "in", folder / "out"
        lines = output.get("AssembleWith") == "Line"
        bodies = payloads(
            content,
            source.get("CompressionType") == "Gzip",
            source.get("SplitType") == "Line",
            limits.many,
            limits.payload,
        )
        try:
            await asyncio.to_thread(self._client.download_file, bucket, key, str(content))
            await invocations.write(key, bodies, answers, lines)
            to_key = output_key(prefix, key, to_prefix)
            extra = {"ContentType": output["Accept"]} if output.get("Accept") else {}
            await asyncio.to_thread(self._client.upload_file, str(answers), to_bucket, to_key, ExtraArgs=extra)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise ObjectFailed("ClientError", f"{key}: {error}") from error
        except (TooLong, OSError, EOFError) as error:  # OSError: not gzip
            raise ObjectFailed("ClientError", f"{key}: {error}") from error
        self._changed()

    def _say(self, text: str) -> None:
        """A line of the job's log, which AWS writes as ``[sagemaker logs]`` into CloudWatch."""
        with (self._log / "data-log").open("a") as out:
            out.write(f"{self._tools.clock.http_date().decode()} [sagemaker logs]: {text}\n")
