"""Batch transform jobs: begun once, found again, waited for, their answers counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.batch_requests import (
    MOST_ATTEMPTS,
    attempt_name,
    batch_model,
    batch_name,
    check_batch,
    output_uri,
    split_uri,
    transform_job,
)
from tasks.adapters.ledger import Ledger
from tasks.adapters.sagemaker_errors import is_absent
from tasks.adapters.sagemaker_make import Maker
from tasks.batch_plan import BatchJob, BatchPlan, InputObject
from tasks.contracts import ModelPackage
from tasks.errors import BatchFailed, BatchInterrupted, RefusedData

_ENDS = ("Completed", "Failed", "Stopped")
# What a FailureReason begins with, and what to do then ("Troubleshoot batch transform errors" in the developer guide).
_REMEDIES = {
    "AlgorithmError": "read the job's log group /aws/sagemaker/TransformJobs (embedded stack: logs/transform/<job>): "
    "the model server died, was too slow, or answered 5xx",
    "ClientError": "a record, its size, or a permission of the execution role on input or output: the job's "
    "data-log names the object",
    "InternalServerError": "SageMaker's own fault: run again, what was done is not repeated",
    "CapacityError": "choose another batch.instance_type or fewer batch.instances, or run again later",
}
_TRANSIENT = ("InternalServerError", "CapacityError")


@dataclass(frozen=True)
class Attempt:
    """A job of this content. ``known``: DescribeTransformJob's answer, or none where it is to be created."""

    name: str
    known: Mapping[str, Any] | None


class Batches:
    """Transform jobs of one connection."""

    def __init__(
        self, aws: Connection, maker: Maker, ledger: Ledger, role_arn: str, environment: Mapping[str, str], run: str
    ) -> None:
        self._aws, self._maker, self._ledger = aws, maker, ledger
        self._role_arn, self._environment, self._run = role_arn, environment, run

    def check(self, plan: BatchPlan, package: ModelPackage) -> None:
        """See ``batch_requests.check_batch``."""
        check_batch(plan, package, self._role_arn)

    def inputs(self, plan: BatchPlan) -> tuple[InputObject, ...]:
        """Every object below the input's prefix, each line looked at.

        Raises:
            RefusedData: there is none, or a line is no record; nothing was started.
        """
        bucket, prefix = split_uri(plan.input)
        found = []
        for item in self._there(bucket, prefix):
            records = sum(1 for _ in self._records(bucket, item["Key"]))
            found.append(InputObject(key=item["Key"], etag=item["ETag"].strip('"'), size=item["Size"], records=records))
        if not sum(each.records for each in found):
            raise RefusedData(
                "there is nothing to transform", observed=f"{len(found)} objects without records below {plan.input}",
                limit="at least one record", remedy="upload objects of JSON lines there, or mend batch.input",
            )  # fmt: skip
        return tuple(found)

    def _there(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        try:
            return list(self._listed(bucket, prefix))
        except ClientError as error:
            if is_absent(error):  # no such bucket
                return []
            raise

    def _records(self, bucket: str, key: str) -> Iterator[None]:
        """One a line. A bad record would fail its whole object, after the others have cost their time."""
        body = self._aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"]
        for number, line in enumerate(body.iter_lines(), start=1):
            try:
                record = json.loads(line)
                good = isinstance(record, dict) and bool(record.get("inputs"))
            except ValueError:
                good = False
            if not good:
                raise RefusedData(
                    "a line of the input is no record", observed=f"s3://{bucket}/{key} line {number}: {line[:120]!r}",
                    limit='{"inputs": "...", "parameters": {...}} on every line',
                    remedy="mend or remove the line; an empty line is none",
                )  # fmt: skip
            yield None

    def begin(self, package: ModelPackage, plan: BatchPlan, objects: Sequence[InputObject]) -> Attempt:
        """The job of this content: one that runs or has ended well is found, else the next attempt is created."""
        self.check(plan, package)
        name = batch_name(package, plan, objects, self._role_arn)
        for number in range(1, MOST_ATTEMPTS + 1):
            attempt = attempt_name(name, number)
            known = self.describe(attempt)
            if known is None:
                self._create(attempt, name, package, plan)
                return Attempt(attempt, None)
            status = known["TransformJobStatus"]
            if status not in _ENDS or (status == "Completed" and not self.missing(plan, objects)):
                return Attempt(attempt, known)
        raise BatchFailed(
            "this batch has been tried too often", observed=f"{MOST_ATTEMPTS} jobs named {name}",
            limit=f"{MOST_ATTEMPTS} attempts", remedy="read the first one's FailureReason and mend the cause",
        )  # fmt: skip

    def _create(self, attempt: str, name: str, package: ModelPackage, plan: BatchPlan) -> None:
        self._maker.model(batch_model(name, package, self._role_arn, self._environment, self._run))
        request = transform_job(attempt, name, package, plan, self._run)
        self._maker.ask("CreateTransformJob", request, lambda: self.describe(attempt) is not None)

    def describe(self, name: str) -> dict[str, Any] | None:
        """The job as SageMaker tells it; none where there is none."""
        try:
            return self._aws.call("sagemaker", "DescribeTransformJob", TransformJobName=name)
        except ClientError as error:
            if is_absent(error):
                return None
            raise

    def ended(self, attempt: Attempt) -> BatchJob | None:
        """The job once it has ended well; none while it runs.

        Raises:
            BatchFailed: it has failed or was stopped, with SageMaker's reason; BatchInterrupted where a retry helps.
        """
        seen = self.describe(attempt.name)
        status = seen["TransformJobStatus"] if seen else "absent"
        if seen is None or status in ("Failed", "Stopped"):
            raise _failed(attempt.name, status, (seen or {}).get("FailureReason", ""))
        if status != "Completed":
            return None
        took = (seen["TransformEndTime"] - seen["TransformStartTime"]).total_seconds()
        reused = attempt.known is not None and attempt.known["TransformJobStatus"] == "Completed"
        return BatchJob(name=attempt.name, seconds=took, reused=reused)

    def forget_model(self, package: ModelPackage, plan: BatchPlan, objects: Sequence[InputObject]) -> None:
        """The model of a job that has ended serves nothing any more."""
        self._maker.forget_model(batch_name(package, plan, objects, self._role_arn))

    def missing(self, plan: BatchPlan, objects: Sequence[InputObject]) -> list[str]:
        """The outputs that are not there."""
        bucket, prefix = split_uri(plan.output)
        there = {f"s3://{bucket}/{item['Key']}" for item in self._listed(bucket, f"{prefix.rstrip('/')}/")}
        return [uri for each in objects if (uri := output_uri(plan, each.key)) not in there]

    def count_answers(self, plan: BatchPlan, objects: Sequence[InputObject]) -> int:
        """Answers of all objects, each one JSON.

        Raises:
            BatchFailed: a record has none, or an answer is none.
        """
        missing = self.missing(plan, objects)
        if missing:
            raise _incomplete(f"{len(missing)} of {len(objects)} outputs are not there, first {missing[0]}")
        total = 0
        for each in objects:
            uri = output_uri(plan, each.key)
            bucket, key = split_uri(uri)
            count = 0
            for line in self._aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"].iter_lines():
                try:
                    json.loads(line)
                except ValueError:
                    raise _incomplete(f"{uri} line {count + 1} is no JSON: {line[:120]!r}") from None
                count += 1
            if count != each.records:
                raise _incomplete(f"{uri} has {count} answers to {each.records} records")
            total += count
        return total

    def _listed(self, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            listed = self._aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix, **more)
            yield from (item for item in listed.get("Contents", []) if not item["Key"].endswith("/"))
            if not listed.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": listed["NextContinuationToken"]}


def _failed(name: str, status: str, reason: str) -> BatchFailed:
    kind = reason.partition(":")[0].strip()
    remedy = "somebody stopped it; run again to begin anew" if status == "Stopped" else _REMEDIES.get(kind, "")
    error = BatchInterrupted if kind in _TRANSIENT else BatchFailed
    return error(
        f"transform job {name} has ended as {status}", observed=reason or "no FailureReason", limit="Completed",
        remedy=remedy or "read the FailureReason and the job's log; run again once the cause is mended",
    )  # fmt: skip


def _incomplete(observed: str) -> BatchFailed:
    return BatchFailed(
        "the job has completed, and its answers are not whole", observed=observed, limit="one answer a record",
        remedy="was another job writing to batch.output? run again with an output of its own",
    )  # fmt: skip
