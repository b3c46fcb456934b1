"""What running it as a flow costs: ``python -m benchmarks.orchestration``.

A deployment, ``demo`` unless told, is run ``--runs`` times on an embedded stack of its own, whose clock is as fast as
that of ``slimline up``. ``seconds`` is wall time of the flow run by Prefect's clock, from its start in the worker's
process to its end; ``tasks`` how many task runs it and its subflows had; ``computing`` the time inside tasks of stages
(import to evaluate, and export); ``rest`` the flow's time outside of every task run, a task: what Prefect adds (keys,
states, results) with the flow's own lines. Every run asks for the same, so from the second on stages come from the
cache. ``ratio`` is a run's wall time ÷ the first's.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from deployments.local.stack import ROOT, Stack

STAGES = ("import_source", "describe", "fetch", "prune", "quantize", "distill", "export", "convert", "evaluate")


@dataclass(frozen=True)
class Row:
    """One run of the deployment."""

    deployment: str
    run: int
    seconds: float
    ratio: float
    tasks: int
    cached: int
    computing_s: float
    in_tasks_s: float
    rest_s_a_task: float


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as folder, _stack(Path(folder)) as stack:
        rows = list(_runs(stack, options.deployment, options.runs, options.param))
    if not options.json:
        print(f"{os.cpu_count()} cores")
        names = f"{'':24}{'seconds':>9}{'ratio':>8}{'tasks':>7}{'cached':>8}"
        print(f"{names}{'computing':>11}{'in tasks':>10}{'rest a task':>13}")
    for row in rows:
        print(json.dumps(asdict(row)) if options.json else _line(row))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Wall time of a deployment, run again, and what Prefect adds.")
    parser.add_argument("--deployment", default="demo", help="of deployments/prefect.yaml")
    parser.add_argument("--param", "-p", action="append", default=[], help="as for slimline run")
    parser.add_argument("--runs", type=int, default=3, help="of them all but the first are answered from the cache")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument(
        "--quick", action="store_true", help="the seeded two-block model: about a minute with the stack"
    )
    options = parser.parse_args()
    if options.quick:
        options.deployment = "compress-only"
        blocks = {"calibration_blocks": 16, "training_blocks": 16, "evaluation_blocks": 16}
        data = {"source": "python-docs", "block_tokens": 64, **blocks}
        options.param += ["model.source=tiny", f"data={json.dumps(data)}", 'gate={"max_bytes_ratio": 0.5}']
    return options


def _runs(stack: Stack, deployment: str, runs: int, parameters: list[str]) -> Iterator[Row]:
    first = 0.0
    newest = FlowRunFilter(parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True))
    for number in range(1, runs + 1):
        _slimline(stack, "run", deployment, *(part for each in parameters for part in ("-p", each)))
        with SyncPrefectClient(api=f"{stack.prefect_url}/api") as client:
            run = client.read_flow_runs(flow_run_filter=newest, sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
            row = _row(client, deployment, number, run, first)
        first = first or row.seconds
        yield row


def _row(client: SyncPrefectClient, deployment: str, number: int, run: FlowRun, first: float) -> Row:
    of_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    family = [run.id, *(each.id for each in client.read_flow_runs(flow_run_filter=of_run))]
    # A subflow's stand-in among the tasks holds its own tasks' time.
    tasks = [
        each
        for each in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=family)))
        if each.state is None or not each.state.state_details.child_flow_run_id
    ]
    inside = sum(each.total_run_time.total_seconds() for each in tasks)
    stages = [each for each in tasks if each.task_key.rsplit("-", 1)[0] in STAGES]
    seconds = run.total_run_time.total_seconds()
    return Row(
        deployment, number, round(seconds, 2), round(seconds / (first or seconds), 4), len(tasks),
        sum(each.state_name == "Cached" for each in tasks),
        round(sum(each.total_run_time.total_seconds() for each in stages), 1), round(inside, 1),
        round((seconds - inside) / len(tasks), 3),
    )  # fmt: skip


def _line(row: Row) -> str:
    counts = f"{row.tasks:7d}{row.cached:8d}{row.computing_s:11.1f}{row.in_tasks_s:10.1f}{row.rest_s_a_task:13.3f}"
    return f"{row.deployment + ', run ' + str(row.run):24}{row.seconds:9.2f}{row.ratio:8.4f}{counts}"


@contextmanager
def _stack(folder: Path) -> Iterator[Stack]:
    stack = Stack(home=folder, base_port=_free_base())
    try:
        _slimline(stack, "up")
        yield stack
    finally:
        _slimline(stack, "down")


def _slimline(stack: Stack, *arguments: str) -> None:
    here = {"SLIMLINE_HOME": str(stack.home), "SLIMLINE_BASE_PORT": str(stack.base_port)}
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments], env=os.environ | here, cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"slimline {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _free_base() -> int:
    """The first of four ports in a row that nothing listens on."""
    for base in range(23_000, 29_000, 10):
        probes: list[socket.socket] = []
        try:
            for port in range(base, base + 4):
                probes.append(socket.create_server(("127.0.0.1", port)))
        except OSError:
            continue
        else:
            return base
        finally:
            for probe in probes:
                probe.close()
    raise RuntimeError("no four free ports in a row")


if __name__ == "__main__":
    sys.exit(main())
