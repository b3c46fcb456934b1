"""The SageMaker adapter, as the settings say: AWS, or the embedded stack."""

from __future__ import annotations

from prefect.runtime import flow_run

from tasks.adapters.protection import Protection
from tasks.adapters.sagemaker import SageMaker
from tasks.settings import settings


def sagemaker() -> SageMaker:
    """Makes clients; makes no call."""
    now = settings()
    return SageMaker(
        region=now.region,
        endpoint_url=now.aws_endpoint_url,
        bucket=now.bucket,
        role_arn=now.role_arn,
        ledger=now.root / "ledger.jsonl",
        run=str(flow_run.id or ""),
        protection=Protection(now.kms_key, _names(now.subnets), _names(now.security_groups)),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
