"""What the endpoint service costs a request: ``nice -n -5 python -m benchmarks.router``.

InvokeEndpoint through the service against a bare ASGI proxy under the same uvicorn (httptools, uvloop) with the same
aiohttp client, each with echo servers of the same program behind it (``benchmarks/router_servers.py``), in the same
run. wrk (https://github.com/wg/wrk, Debian package ``wrk``) sends; ``cpu_us`` is CPU time of the service's (or the
proxy's) process, all its threads, a request: the figure that a busy machine disturbs least. What is measured is alone
on one core and everything else on the others: elsewhere the scheduler decides who is interrupted, and with it the cost.
Rounds go over all scenarios in turn; figures are medians over rounds, ``ratio`` the median of each round's ratio to the
bare proxy: for the shadow to one that sends copies too, for two variants to one that draws between two servers, because
a second process that is mostly idle costs whoever wakes it. Then resident memory of the service's process while it
answers 100,000 more requests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil

ROOT = Path(__file__).resolve().parents[1]
BODY = json.dumps({"inputs": "The quick brown fox jumps over the lazy dog. " * 4})
ROLE = "arn:aws:iam::123456789012:role/benchmark"
SERVERS = (sys.executable, "-m", "benchmarks.router_servers")
# What boto3 sends with an invocation, so that reading headers costs what it costs.
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "*/*",
    "User-Agent": "Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux lang/python#3.11 cfg/retry-mode#legacy",
    "X-Amz-Date": "20261127T000000Z",
    "Authorization": "AWS4-HMAC-SHA256 Credential=x/20261127/us-east-1/sagemaker/aws4_request, "
    "SignedHeaders=accept;content-type;host;x-amz-date, Signature=" + "0" * 64,
    "amz-sdk-invocation-id": "00000000-0000-4000-8000-000000000000",
    "amz-sdk-request": "attempt=1",
}
_LUA = """
wrk.method = "POST"
wrk.body = %s
wrk.headers = {%s}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Target:
    """Where one scenario's requests go, whose CPU time counts, and which bare proxy it is compared with."""

    scenario: str
    url: str
    process: psutil.Process
    base: str


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int
    cpu_us: float


@dataclass(frozen=True)
class Row:
    """One scenario. ``ratio`` is of CPU time a request, to the bare proxy."""

    scenario: str
    cpu_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    p50_us: float
    p99_us: float
    rps: float
    requests: int
    errors: int


@dataclass(frozen=True)
class Memory:
    """Resident memory of the service's process after so many requests to one endpoint."""

    scenario: str
    requests: int
    rss_mb: float


def main() -> int:
    options = _options()
    if shutil.which("wrk") is None:
        print("wrk is not on the PATH: install it (Debian: apt-get install wrk) and run this again.", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        targets, service = _start(running, Path(folder))
        script = _script(Path(folder))
        for target in () if options.quick else targets:
            _load(target, script, options.connections, 1.0)  # warm
        rows = _rounds(targets, script, options)
        if not options.json:
            print(f"wrk -t1 -c{options.connections}, {options.rounds} rounds of {options.seconds:g} s, ", end="")
            print(f"{len(BODY)} bytes a request, {os.cpu_count()} cores, niceness {os.nice(0)}")
            print(f"{'':32}{'CPU µs':>8}{'ratio':>7}{'rounds':>12}{'p50 ms':>8}{'p99 ms':>8}{'req/s':>7}{'errors':>8}")
        for row in rows:
            print(json.dumps(asdict(row)) if options.json else _line(row), flush=True)
        for memory in _memory(targets[3], service, script, options):
            text = f"{memory.scenario:32}{memory.requests:8d} requests{memory.rss_mb:8.1f} MB"
            print(json.dumps(asdict(memory)) if options.json else text, flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU time a request of the endpoint service against a bare proxy.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all scenarios")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of one scenario in one round")
    parser.add_argument("--connections", type=int, default=16, help="connections of wrk")
    parser.add_argument("--memory", type=int, nargs="*", default=[10_000, 50_000, 100_000], help="requests, memory")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--quick", action="store_true", help="one round of a second, memory at 2,000: under a minute")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.memory = 1, 1.0, [2_000]
    return options


def _rounds(targets: list[Target], script: Path, options: argparse.Namespace) -> list[Row]:
    loads: dict[str, list[Load]] = {target.scenario: [] for target in targets}
    for _ in range(options.rounds):
        for target in targets:
            loads[target.scenario].append(_load(target, script, options.connections, options.seconds))
    return [_row(target, loads[target.scenario], loads[target.base]) for target in targets]


def _row(target: Target, loads: list[Load], base: list[Load]) -> Row:
    ratios = [mine.cpu_us / bare.cpu_us for mine, bare in zip(loads, base, strict=True)]
    return Row(
        target.scenario,
        round(statistics.median(load.cpu_us for load in loads), 1),
        round(statistics.median(ratios), 3),
        round(min(ratios), 3),
        round(max(ratios), 3),
        statistics.median(load.p50_us for load in loads),
        statistics.median(load.p99_us for load in loads),
        round(sum(load.requests for load in loads) / sum(load.seconds for load in loads), 1),
        sum(load.requests for load in loads),
        sum(load.errors for load in loads),
    )


def _line(row: Row) -> str:
    spread = f"{row.ratio_low:.2f}-{row.ratio_high:.2f}"
    times = f"{row.p50_us / 1e3:8.1f}{row.p99_us / 1e3:8.1f}{row.rps:7.0f}{row.errors:8d}"
    return f"{row.scenario:32}{row.cpu_us:8.0f}{row.ratio:7.2f}{spread:>12}{times}"


def _load(target: Target, script: Path, connections: int, seconds: float) -> Load:
    """wrk for so many seconds. wrk knows whole seconds only."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), target.url]
    before = _cpu(target.process)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
    spent = _cpu(target.process) - before
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if not found or not int(found.group(1)):
        raise RuntimeError(f"wrk measured nothing on {target.scenario}: {done.stdout}{done.stderr}")
    requests, microseconds, p50, p99, errors = map(int, found.groups())
    return Load(requests, microseconds / 1e6, p50, p99, errors, spent / requests * 1e6)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(target: Target, service: psutil.Process, script: Path, options: argparse.Namespace) -> Iterator[Memory]:
    yield Memory("memory, at the start", 0, round(service.memory_info().rss / 1e6, 1))
    sent = 0
    for goal in options.memory:
        while sent < goal:
            sent += _load(target, script, options.connections, 2.0).requests
        yield Memory(f"memory, {goal} requests", sent, round(service.memory_info().rss / 1e6, 1))


def _script(folder: Path) -> Path:
    path = folder / "post.lua"
    headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in HEADERS.items())
    path.write_text(_LUA % (json.dumps(BODY), headers))
    return path


def _start(running: ExitStack, folder: Path) -> tuple[list[Target], psutil.Process]:
    """Every server, and the scenarios: the bare proxies first."""
    echo = running.enter_context(_server("echo"))[0]
    copied = running.enter_context(_server("echo"))[0]
    bare, bare_process = running.enter_context(_server("proxy", echo))
    both, both_process = running.enter_context(_server("proxy", echo, copied))
    two, two_process = running.enter_context(_server("split", echo, copied))
    url, service = running.enter_context(_service(folder))
    scenarios = _endpoints(url, folder)
    targets = [
        Target("bare proxy", bare, bare_process, "bare proxy"),
        Target("bare proxy to two, 9 to 1", two, two_process, "bare proxy to two, 9 to 1"),
        Target("bare proxy with copies", both, both_process, "bare proxy with copies"),
    ]
    for name, (endpoint, base) in scenarios.items():
        targets.append(Target(name, f"{url}/endpoints/{endpoint}/invocations", service, base))
    _apart([target.process for target in targets])
    return targets, service


def _apart(measured: list[psutil.Process]) -> None:
    """The measured on the first core of this process, one at a time; this one and all others it started on the rest."""
    first, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        return
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {first} if process in measured else rest)


@contextmanager
def _server(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*SERVERS, *arguments], cwd=ROOT, env=os.environ | {"SAGEMAKER_BIND_TO_PORT": str(port)})
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(arguments)} did not start on port {port}") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _service(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "deployments.local.endpoint_service", "--port", "0", "--data", str(folder)]
    command += ["--runtime", f"echo={' '.join(SERVERS)} echo"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if not found:
            raise RuntimeError("the endpoint service did not start")
        yield found.group(0), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _endpoints(url: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Scenario: the endpoint and the bare proxy to compare with."""
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    sagemaker = boto3.client("sagemaker", endpoint_url=url, **keys)
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="captured")
    container = {"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/echo:1"}
    sagemaker.create_model(ModelName="echo", PrimaryContainer=container, ExecutionRoleArn=ROLE)

    def variant(name: str, weight: float) -> dict[str, Any]:
        common = {"ModelName": "echo", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        return {"VariantName": name, "InitialVariantWeight": weight, **common}

    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://captured/events",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    one = [variant("main", 1)]
    configs: dict[str, tuple[dict[str, Any], str]] = {
        "one variant": ({"ProductionVariants": one}, "bare proxy"),
        "two variants, 9 to 1": (
            {"ProductionVariants": [variant("a", 9), variant("b", 1)]},
            "bare proxy to two, 9 to 1",
        ),
        "a shadow, every request": (
            {"ProductionVariants": one, "ShadowProductionVariants": [variant("shadow", 1)]},
            "bare proxy with copies",
        ),
        "data capture, every request": ({"ProductionVariants": one, "DataCaptureConfig": capture}, "bare proxy"),
    }
    for number, (given, _) in enumerate(configs.values()):
        name = f"e{number}"
        sagemaker.create_endpoint_config(EndpointConfigName=name, **given)
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    for number in range(len(configs)):
        waiter = sagemaker.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=f"e{number}", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    return {scenario: (f"e{number}", base) for number, (scenario, (_, base)) in enumerate(configs.items())}


if __name__ == "__main__":
    sys.exit(main())
