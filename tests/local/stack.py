"""The endpoint service as a real process, and plain boto3 clients for it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import boto3
import requests
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[2]
ECHO = Path(__file__).with_name("echo_server.py")
ROLE = "arn:aws:iam::123456789012:role/slimline-endpoint"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/echo:1"
WAIT = {"Delay": 1, "MaxAttempts": 60}


class Service:
    """One service process. ``url`` is what AWS_ENDPOINT_URL would be."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        command = [sys.executable, "-m", "deployments.local.endpoint_service", "--port", "0", "--data", str(data)]
        command += ["--runtime", f"echo={sys.executable} {ECHO}", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"the service did not start: {line!r}"
        self.url = found.group(0)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 0}, max_pool_connections=20),
        )

    def fleets(self, endpoint: str) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/_slimline/fleets/{endpoint}", timeout=10).json()
        return found

    def stop(self, sign: int = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(timeout=30)


@dataclass
class Deck:
    """Short ways to say what most tests do. Every name is new."""

    service: Service
    sagemaker: Any
    runtime: Any
    cloudwatch: Any
    made: list[str] = field(default_factory=list)  # endpoints to delete after the test

    def model(self, image: str = IMAGE, **environment: str) -> str:
        name = f"m-{uuid.uuid4().hex[:8]}"
        container = {"Image": image, "Environment": environment}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        return name

    def config(self, *variants: dict[str, Any], count: int = 1, **environment: str) -> str:
        """A configuration of the given variants, or of one called ``main``."""
        name = f"c-{uuid.uuid4().hex[:8]}"
        given = variants or (variant("main", self.model(**environment), count),)
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=list(given))
        return name

    def endpoint(self, config: str, keep: bool = False) -> str:
        """An endpoint that is InService; deleted after the test unless it is to be kept."""
        name = f"e-{uuid.uuid4().hex[:8]}"
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        if not keep:
            self.made.append(name)
        self.settled(name)
        assert self.describe(name)["EndpointStatus"] == "InService", self.describe(name)
        return name

    def describe(self, endpoint: str) -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=endpoint)
        return found

    def now(self) -> datetime:
        """The service's time: its clock may run fast."""
        answer = self.cloudwatch.list_metrics(Namespace="none")
        found: datetime = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return found

    def settled(self, endpoint: str, seconds: float = 180) -> dict[str, Any]:
        """Wait until nothing is under way."""
        return until(
            lambda: self.describe(endpoint),
            lambda seen: seen["EndpointStatus"] not in ("Creating", "Updating", "Deleting", "SystemUpdating"),
            seconds,
        )

    def alarm(self, endpoint: str, config: str, threshold: float = 0.05, variant: str = "main") -> str:
        """The share of 5xx answers of the new fleet alone."""
        name = f"a-{uuid.uuid4().hex[:8]}"
        dims = {"EndpointName": endpoint, "VariantName": variant, "EndpointConfigName": config}
        self.cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            Dimensions=[{"Name": key, "Value": value} for key, value in dims.items()],
            Statistic="Average",
            Period=60,
            EvaluationPeriods=1,
            Threshold=threshold,
            ComparisonOperator="GreaterThanThreshold",
            TreatMissingData="notBreaching",
        )
        return name

    def ask(self, endpoint: str, text: str = "hello", **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.runtime.invoke_endpoint(
            EndpointName=endpoint, ContentType="application/json", Body=b'{"inputs": "%s"}' % text.encode(), **more
        )
        return answer


def variant(name: str, model: str, count: int = 1, weight: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InitialInstanceCount": count,
        "InstanceType": "ml.g6e.xlarge",
        "InitialVariantWeight": weight,
        **more,
    }


def canary(size: int, kind: str = "CAPACITY_PERCENT", wait: int = 120, end: int = 60) -> dict[str, Any]:
    return policy({"Type": "CANARY", "WaitIntervalInSeconds": wait, "CanarySize": {"Type": kind, "Value": size}}, end)


def rolling(
    size: int,
    kind: str = "INSTANCE_COUNT",
    wait: int = 60,
    back: int | None = None,
    back_kind: str = "INSTANCE_COUNT",
    limit: int | None = None,
) -> dict[str, Any]:
    found: dict[str, Any] = {"MaximumBatchSize": {"Type": kind, "Value": size}, "WaitIntervalInSeconds": wait}
    if back:
        found["RollbackMaximumBatchSize"] = {"Type": back_kind, "Value": back}
    if limit:
        found["MaximumExecutionTimeoutInSeconds"] = limit
    return {"RollingUpdatePolicy": found}


def policy(routing: dict[str, Any], end: int = 0, alarms: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": end}
    }
    if alarms:
        found["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarms]}
    return found


def until(look: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 60) -> Any:
    """Look until it is good; fail with the last look."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
