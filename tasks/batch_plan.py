"""A batch transform's group in the form that Prefect draws, and what it hands back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import Place, Value
from tasks.recipes import Choice

S3Prefix = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+", max_length=1000)]


class BatchPlan(Choice):
    """Every record below an S3 prefix through a model, without an endpoint."""

    input: S3Prefix = Field(
        "s3://slimline-models/batch/in/",
        description='S3 prefix of the input: objects of JSON lines, each {"inputs": "...", "parameters": {...}}',
    )
    output: S3Prefix = Field(
        "s3://slimline-models/batch/out/",
        description="S3 prefix of the answers: one object NAME.out an input object, one line a record",
    )
    instance_type: str = Field("ml.m5.xlarge", description="SageMaker instance type")
    instances: int = Field(1, ge=1, le=100, description="Instances; each takes whole objects of the input")
    strategy: Literal["SingleRecord", "MultiRecord"] = Field(
        "SingleRecord",
        description="SingleRecord: one request a record. MultiRecord: as many records in one request as fit, for "
        "containers that read JSON lines; Slimline's own reads one record",
    )
    max_payload_mb: int = Field(6, ge=1, le=100, description="Size of a request, at most, MB")
    concurrent: int = Field(
        1, ge=1, le=100, description="Requests at a time to an instance; times max_payload_mb at most 100"
    )
    timeout_seconds: int = Field(600, ge=1, le=3600, description="An answer may take so long, seconds")
    retries: int = Field(3, ge=0, le=3, description="A request without a good answer is repeated so often")
    patience_seconds: int = Field(
        86_400,
        ge=60,
        le=2_419_200,
        description="Wait so long for the job, by the service's clock; it goes on alone",
    )
    serve: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="Which folder of the version answers: as plan.serve of a release"
    )


class InputObject(Value):
    """One object of the input. ``key``: without the bucket."""

    key: str
    etag: str
    size: int
    records: int = Field(description="Its lines")


class BatchJob(Value):
    """A transform job that has ended well, or was found so."""

    name: str
    seconds: float = Field(description="From its start to its end, by the service's clock")
    reused: bool = Field(description="Whether an earlier run of the same request had done it")


class BatchResult(Value):
    """How a batch transform ended."""

    job: str
    model: str
    version: str
    output: Annotated[str, Place]
    objects: int
    records: int = Field(description="Records of the input, each of which has an answer")
    seconds: float
    reused: bool
    rehearsal: str = ""
