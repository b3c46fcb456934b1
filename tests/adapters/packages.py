"""Values that the release tests share."""

from __future__ import annotations

from pathlib import Path

from tasks.adapters.sagemaker import SageMaker
from tasks.contracts import ModelPackage, ModelRef, RegisteredModel
from tasks.plans import Rehearsal, ReleasePlan

ROLE = "arn:aws:iam::111111111111:role/slimline-endpoint"
ECR_IMAGE = "111111111111.dkr.ecr.us-east-1.amazonaws.com/slimline-inference:0.1.0"
AWS_PLAN = ReleasePlan(rehearsal=Rehearsal(requests_per_second=0))


def package(
    version: str = "1", image: str = ECR_IMAGE, s3_uri: str | None = None, digest: str = "a" * 64
) -> ModelPackage:
    model = ModelRef(
        uri=f"models/{digest}", digest=digest, name="tiny", licence="none", architecture="LlamaForCausalLM",
        parameters=1, bytes=1, dtype="float32",
    )  # fmt: skip
    registered = RegisteredModel(name="tiny", version=version, alias="challenger", model=model, run_id="b" * 32, url="")
    return ModelPackage(
        registered=registered, s3_uri=s3_uri or f"s3://slimline-models/models/{digest}/", image=image, digest=digest
    )


def on_aws(tmp_path: Path) -> SageMaker:
    """The adapter as it is on AWS. Only what makes no call may be asked of it here."""
    return SageMaker("us-east-1", None, "slimline-models", ROLE, tmp_path / "ledger.jsonl")
