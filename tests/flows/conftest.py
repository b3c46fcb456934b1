"""One embedded stack a test session: the same `slimline up` that a person runs, in a folder and on ports of its own."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx
import pytest

from deployments.local.stack import ROOT, Stack

SPEED = 60.0


def four_free_ports() -> int:
    """The first of four ports in a row that are free now. Servers take seconds to bind: suites beside each other must
    not try the same ones.
    """
    bases = range(21000, 29000, 10)
    for base in random.sample(bases, len(bases)):
        sockets = []
        try:
            for port in range(base, base + 4):
                probe = socket.socket()
                sockets.append(probe)
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return base
        finally:
            for probe in sockets:
                probe.close()
    raise RuntimeError("no four free ports in a row")


@dataclass
class Finished:
    """One `slimline` call."""

    code: int
    text: str
    out: str = ""

    @property
    def flow_run_id(self) -> str:
        return re.findall(r"/runs/flow-run/([0-9a-f-]{36})", self.text)[0]

    def line(self, start: str) -> str:
        """The line of the stage whose task run name begins with ``start``."""
        return next(line for line in self.text.splitlines() if line.strip()[2:].startswith(start))


@dataclass
class Line:
    """The stack, the command line on it, and its servers' APIs."""

    stack: Stack
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> dict[str, str]:
        return {"SLIMLINE_HOME": str(self.stack.home), "SLIMLINE_BASE_PORT": str(self.stack.base_port)}

    def slimline(self, *arguments: str, timeout: float = 400, env: Mapping[str, str] | None = None) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *arguments],
            env=os.environ | self.home | dict(env or {}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Finished(done.returncode, done.stdout + done.stderr, done.stdout)

    def prefect(self, path: str, /, **body: Any) -> Any:
        return self.ask_prefect("POST", path, body)

    def prefect_get(self, path: str) -> Any:
        return self.ask_prefect("GET", path)

    def ask_prefect(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, or None where it has none. Asks again while the server is busy: its database is one file,
        which it says by a 503, and Prefect's own client does the same.
        """
        for _ in range(10):
            reply = httpx.request(method, f"{self.stack.prefect_url}/api/{path}", json=body, timeout=30)
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def family(self, flow_run_id: str) -> list[str]:
        children = self.prefect("flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [flow_run_id]}})
        return [flow_run_id, *(child["id"] for child in children)]

    def task_runs(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """Every task run of the run and its subflows, by the task's name."""
        runs = self.prefect("task_runs/filter", flow_runs={"id": {"any_": self.family(flow_run_id)}})
        return {run["task_key"].rsplit("-", 1)[0]: run for run in runs}

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        found = self.prefect("artifacts/filter", flow_runs={"id": {"any_": self.family(flow_run_id)}}, limit=200)
        return {artifact["key"]: artifact for artifact in found}

    def mlflow(self, path: str, **body: Any) -> Any:
        reply = httpx.post(f"{self.stack.mlflow_url}/api/2.0/mlflow/{path}", json=body, timeout=30)
        reply.raise_for_status()
        return reply.json()

    def alias(self, name: str, alias: str) -> str | None:
        reply = httpx.get(
            f"{self.stack.mlflow_url}/api/2.0/mlflow/registered-models/alias", params={"name": name, "alias": alias}
        )
        return str(reply.json()["model_version"]["version"]) if reply.status_code == 200 else None

    def mlflow_get(self, path: str, /, **query: Any) -> Any:
        reply = httpx.get(f"{self.stack.mlflow_url}/api/2.0/mlflow/{path}", params=query, timeout=30)
        reply.raise_for_status()
        return reply.json()

    def mlflow_version(self, name: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = self.mlflow_get("model-versions/get", name=name, version=version)["model_version"]
        return found

    def mlflow_run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.mlflow_get("runs/get", run_id=run_id)["run"]
        return found

    def version_count(self, name: str) -> int:
        return len(self.mlflow_get("model-versions/search", filter=f"name='{name}'")["model_versions"])

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.stack.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="plain",
            aws_secret_access_key="boto3",
        )

    def serving(self, endpoint: str) -> str:
        return str(self.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointConfigName"])


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    stack = Stack(home=tmp_path_factory.mktemp("stack"), base_port=four_free_ports(), speed=SPEED)
    running = Line(stack)
    try:
        up = running.slimline("up", "--speed", str(SPEED))
        assert up.code == 0, up.text
        yield running
    finally:
        down = running.slimline("down")
    assert down.code == 0, down.text


@pytest.fixture(scope="session")
def released(line: Line) -> Finished:
    """The `tiny` deployment, triggered through the Prefect API and followed to its end."""
    return line.slimline("run", "tiny", "-p", "plan.judge.promote=false")


def values(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table artifact."""
    rows: list[dict[str, Any]] = json.loads(table["data"])
    return rows
