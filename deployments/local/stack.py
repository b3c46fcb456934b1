"""The embedded stack: Prefect, MLflow, the SageMaker-compatible endpoint service, and a worker that runs the
deployments. All on loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.local.processes import Processes, Started, answers, clean_environment, port_is_free, wait_until
from tasks.errors import SlimlineError
from tasks.settings import settings

ROOT = Path(__file__).resolve().parents[2]
POOL = "slimline"
START_SECONDS = 180.0
_BUSY_SECONDS = 15.0  # a server that started and is busy, such as with the end of a run


class StackError(SlimlineError):
    """A server of the stack did not start."""


@dataclass(frozen=True)
class Stack:
    """Four ports in a row and a folder. ``speed`` is the endpoint service's clock: how many of its seconds pass in
    one of ours.
    """

    home: Path
    base_port: int = 4310
    speed: float = 10.0

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.base_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.base_port + 1}"

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.base_port + 2}"

    @property
    def processes(self) -> Processes:
        return Processes(self.home)

    def environment(self) -> dict[str, str]:
        """What a client or a worker of this stack needs; AWS is reached by leaving these out."""
        return {
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_LOCAL_STORAGE_PATH": str(self.home / "results"),
            "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            # The least that Prefect allows; deployments/automations.yaml calls a run dead after ten minutes without.
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            # In memory, the default, a slot whose holder died with the server would never come back.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "SLIMLINE_HOME": str(self.home),
            "SLIMLINE_MLFLOW_URL": self.mlflow_url,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            # The service checks no signature, but boto3 will not sign without credentials.
            "AWS_ACCESS_KEY_ID": "embedded",
            "AWS_SECRET_ACCESS_KEY": "embedded",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Its client would retry for minutes by itself and hide the cause; the tasks have retries of their own.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            # Two spinning OpenMP threads beside a busy server run at a fifth of their speed.
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def full_environment(self) -> dict[str, str]:
        return clean_environment() | self.environment()

    def up(self, say: Callable[[str], None]) -> None:
        """Start what is not running yet, in order, and wait until each answers.

        Raises:
            StackError: a port is taken by somebody else, or a server died; with the end of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        starting: list[tuple[str, str, Started]] = []
        for name, command, health in self._servers():
            running = self.processes.find(name)
            if running:
                starting.append((name, health, running))
                continue
            self._require_port(health, name)
            starting.append((name, health, self.processes.start(name, command, self.full_environment(), ROOT)))
        for name, health, started in starting:
            if not wait_until(health, started, START_SECONDS):
                raise self._failed(name)
            say(f"{name}: up at {health.split('/api')[0].split('/_slimline')[0].removesuffix('/health')}")
        self._deploy(say)

    def _servers(self) -> Iterator[tuple[str, list[str], str]]:
        python = sys.executable
        yield (
            "prefect",
            [python, "-m", "deployments.local.prefect_server", "--port", str(self.base_port)],
            f"{self.prefect_url}/api/health",
        )
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.home / 'mlflow.db'}",
            "--artifacts-destination",
            str(self.home / "mlflow-artifacts"),
        ]
        yield (
            "mlflow",
            [
                python,
                "-m",
                "mlflow",
                "server",
                *store,
                "--host",
                "127.0.0.1",
                "--port",
                str(self.base_port + 1),
                "--workers",
                "1",
            ],
            f"{self.mlflow_url}/health",
        )
        ports = ["--port", str(self.base_port + 2), "--s3-port", str(self.base_port + 3)]
        data = ["--data", str(self.home / "endpoints"), "--speed", str(self.speed)]
        yield (
            "endpoints",
            [python, "-m", "deployments.local.endpoint_service", *ports, *data],
            f"{self.endpoint_url}/_slimline/health",
        )

    def _require_port(self, health: str, name: str) -> None:
        port = int(health.split(":")[2].split("/")[0])
        if not port_is_free(port):
            raise StackError(
                f"{name} cannot start",
                observed=f"port {port} is in use by another program",
                limit="a free port on loopback",
                remedy="end that program, or pass --base-port with another number",
            )

    def _failed(self, name: str) -> StackError:
        return StackError(
            f"{name} did not start",
            observed=self.processes.tail(name),
            limit=f"an answer within {START_SECONDS:.0f} s",
            remedy=f"read {self.processes.logs / (name + '.log')}, then `slimline down` and `slimline up` again",
        )

    def _deploy(self, say: Callable[[str], None]) -> None:
        """Register every deployment of ``deployments/prefect.yaml`` and start the worker that runs them."""
        run = subprocess.run(
            [sys.executable, "-m", "deployments.registration"],
            env=self.full_environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise StackError(
                "the deployments could not be registered",
                observed=(run.stdout + run.stderr)[-1500:],
                limit="exit code 0",
                remedy="mend deployments/prefect.yaml or deployments/automations.yaml",
            )
        say("deployments and automations: registered")
        if self.processes.find("worker"):
            say("worker: already running")
            return
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "2"]
        self.processes.start("worker", command, self.full_environment(), ROOT)
        say("worker: started")

    def down(self, say: Callable[[str], None]) -> None:
        """End everything that ``up`` started, the worker first so that nothing new begins."""
        for name in ("worker", "endpoints", "mlflow", "prefect"):
            say(f"{name}: {'stopped' if self.processes.stop(name) else 'was not running'}")

    def require_up(self, *parts: str) -> None:
        """Raise StackError unless every part answers, or those that are named. A busy one has a while to answer."""
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            states = {name: state for name, state, _ in self.status() if name in (parts or (name,))}
            missing = [name for name, state in states.items() if state != "up"]
            if "down" in states.values() or not missing or time.monotonic() > until:
                break
            time.sleep(0.5)
        if missing:
            raise StackError(
                "the embedded stack is not up",
                observed=f"not answering: {', '.join(missing)}",
                limit=", ".join(parts) or "Prefect, MLflow, the endpoint service and the worker",
                remedy="slimline up",
            )

    def status(self) -> list[tuple[str, str, str]]:
        """(name, state, address) of each part."""
        rows = []
        for name, _, health in self._servers():
            alive = self.processes.find(name) is not None
            state = "up" if alive and answers(health) else "started, no answer" if alive else "down"
            rows.append((name, state, health.split("/api")[0].split("/_slimline")[0].removesuffix("/health")))
        return [*rows, ("worker", "up" if self.processes.find("worker") else "down", "")]


def stack_here(base_port: int | None = None, speed: float | None = None) -> Stack:
    """The stack of the current settings' home."""
    base = base_port or int(os.environ.get("SLIMLINE_BASE_PORT", "4310"))
    return Stack(home=settings().root, base_port=base, speed=speed or 10.0)
