"""The only reader of the environment. Everything else is handed what it needs.

``SLIMLINE_*`` variables override. Where AWS is, boto3's own variables say (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
profiles): one code path for AWS and for the embedded stack. Secrets are never settings: boto3's credential chain
finds them.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are on this machine, and how to reach the servers."""

    model_config = SettingsConfigDict(env_prefix="SLIMLINE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".slimline"), description="Everything that Slimline writes lies below")
    mlflow_url: str = Field(default="http://127.0.0.1:5501", description="MLflow tracking and registry server")
    experiment: str = "slimline"
    bucket: str = Field(default="slimline-models", description="S3 bucket of the model packages")
    role_arn: str = Field(
        default="arn:aws:iam::123456789012:role/slimline-endpoint", description="Execution role of the endpoint"
    )
    image: str = Field(default="slimline-inference:0.1.0", description="Inference image; a full ECR URI on AWS")
    kms_key: str = Field(default="", description="KMS key (ARN or id) of packages, volumes and captures; none: AWS's")
    subnets: str = Field(default="", description="Subnets of the endpoint's containers, with commas between")
    security_groups: str = Field(default="", description="Security groups of the same, with commas between")
    prices: Path | None = Field(default=None, description="A file of prices that overrides tasks/adapters/prices.yaml")
    priced: str = Field(
        default="ml.m5.xlarge,ml.c5.2xlarge",
        description="Instance types, comma-separated, whose dollars per million tokens a scorecard shows",
    )
    datasets: Path | None = Field(
        default=None, description="Folder of hub data sets' copies, org/name below it as on the hub"
    )
    # A 7 B model in 16 bits is 14 GB, and its compressed sisters lie beside it.
    min_free_gb: float = Field(default=20, ge=0, description="Free space, GB, that slimline doctor wants for home")
    threads: int = Field(default=max(1, os.cpu_count() or 1), ge=1, description="Threads of heavy stages")

    @cached_property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def aws_endpoint_url(self) -> str | None:
        """The embedded stack's address, or none on AWS (the variable is boto3's own)."""
        return os.environ.get("AWS_ENDPOINT_URL")

    @property
    def hub(self) -> str | None:
        """Another model hub's address, or none (the variable is huggingface_hub's own)."""
        return os.environ.get("HF_ENDPOINT")

    @property
    def hub_caches(self) -> tuple[Path, ...]:
        """The hub's caches on this machine (the variables are huggingface_hub's own)."""
        home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface")).expanduser()
        named = os.environ.get("HF_HUB_CACHE")
        return ((Path(named).expanduser(),) if named else ()) + (home / "hub",)

    @property
    def cpu_capability(self) -> str:
        """The processor's instructions that torch may use at most, or empty (the variable is torch's own)."""
        return os.environ.get("ATEN_CPU_CAPABILITY", "")

    @property
    def region(self) -> str | None:
        return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def settings() -> Settings:
    """Read the environment now. Cheap; never cached, so a test or a worker can change it."""
    return Settings()
