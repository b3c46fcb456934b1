"""A release whose process is killed at a random moment: the next run, or the automation, ends in one coherent state.

``python -m pytest tests/flows/test_killed_release.py --kills 20`` is the long form: it goes round the modes, those that
SageMaker guards, with the judge's evidence and without, and those that Slimline moves.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.local.stack import ROOT
from tests.flows.conftest import Finished, Line

MODEL = ENDPOINT = "killed"
PLAN: dict[str, Any] = {
    "endpoint": ENDPOINT, "instances": 1, "bake_seconds": 120, "original_first": False, "min_requests": 3,
    "rehearsal": {"requests_per_second": 10},
}  # fmt: skip
# Wide margins: some fifty requests to each version are evidence enough.
EVIDENCE = {"alpha": 0.1, "beta": 0.1, "error_margin": 0.2, "latency_ratio": 20, "harmless": 0.5, "min_agreement": 0.3}
MODES: dict[str, dict[str, Any]] = {
    "ALL_AT_ONCE": {"judge": {"promote": False}},
    # Both versions answer beside each other only while it bakes: twenty seconds of wall time for each step.
    "CANARY": {"judge": EVIDENCE, "instances": 2, "step_percent": 50, "bake_seconds": 1200},
    "WEIGHTS": {"judge": EVIDENCE, "step_percent": 50},
    "AB_TEST": {"judge": EVIDENCE, "step_percent": 50},
    "SHADOW": {"judge": EVIDENCE},
}
RUN = """
import json, sys
from flows.release import release
from tasks.contracts import DatasetRef, ModelRef, RegisteredModel
from tasks.plans import ReleasePlan
given = json.load(open(sys.argv[1]))
kinds = {"registered": RegisteredModel, "original": ModelRef, "data": DatasetRef, "plan": ReleasePlan}
print("ENDED", release(**{name: kind.model_validate(given[name]) for name, kind in kinds.items()}).phase)
"""
FINISH = """
import sys
from flows.restore import restore
print("ENDED", restore(crashed_run=sys.argv[1]).action)
"""


TERMS = """
import sys
from tasks.adapters.sagemaker_history import History
from tasks.plans import ReleasePlan
from tasks.restore import terms_of_move
plan = ReleasePlan(endpoint="killed", min_requests=1)
for run in sys.argv[1:]:
    print("ENDED", terms_of_move(History(moving_to="new", run=run), plan).min_requests)
"""


@dataclass
class Releases:
    """Two versions of the registry with the same files, and how to release each to one endpoint."""

    line: Line
    folder: Path
    given: dict[str, Any]
    versions: tuple[str, str]
    mode: str = "ALL_AT_ONCE"
    seconds: dict[str, float] = field(default_factory=dict)  # of a release that nobody kills, from its first line on

    def parameters(self, version: str) -> dict[str, Any]:
        registered = self.given["registered"] | {"name": MODEL, "version": version, "alias": "challenger"}
        return self.given | {"registered": registered, "plan": PLAN | {"mode": self.mode} | MODES[self.mode]}

    def whole(self, version: str) -> str:
        """Release it, and note how long that took. Returns how it ended."""
        process = self.start(version)
        began = begun(process)
        how = ended(process)
        self.seconds[self.mode] = time.monotonic() - began
        return how

    def start(self, version: str) -> subprocess.Popen[str]:
        job = self.folder / f"release-{version}.json"
        job.write_text(json.dumps(self.parameters(version)))
        return self._python(RUN, str(job))

    def trigger(self, version: str) -> str:
        """The same as a run of a deployment, which the stack's worker starts. Returns the flow run's id."""
        flow = self.line.prefect("flows/", name="release")["id"]
        place = {"path": str(ROOT), "entrypoint": "flows/release.py:release", "work_pool_name": "slimline"}
        deployment = self.line.prefect("deployments/", name="killed", flow_id=flow, **place)["id"]
        asked = {"parameters": self.parameters(version), "idempotency_key": str(time.time())}
        run = self.line.prefect(f"deployments/{deployment}/create_flow_run", **asked)
        return str(run["id"])

    def judged_by(self, *runs: str) -> list[int]:
        """By how many requests what each of these runs has left open is judged, where this release asks for one."""
        text, _ = self._python(TERMS, *runs).communicate(timeout=120)
        return [int(line.split()[1]) for line in text.splitlines() if line.startswith("ENDED")]

    def finish(self, crashed_run: str) -> subprocess.Popen[str]:
        return self._python(FINISH, crashed_run)

    def _python(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=self.line.stack.full_environment(), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def last_run(self) -> str | None:
        """The newest flow run of a release to the endpoint, where the killed process got as far as making one."""
        names = {"any_": [f"release-{MODEL}-v{version}-{mode}" for version in self.versions for mode in MODES]}
        found = self.line.prefect(
            "flow_runs/filter", flow_runs={"name": names, "state": {"type": {"any_": ["RUNNING"]}}},
            sort="START_TIME_DESC", limit=1,
        )  # fmt: skip
        return str(found[0]["id"]) if found else None


def begun(process: subprocess.Popen[str]) -> float:
    """When the flow itself begins: importing takes seconds, and is no moment worth dying at."""
    assert process.stdout is not None
    assert any("Beginning flow run" in text for text in process.stdout)
    return time.monotonic()


def ended(process: subprocess.Popen[str]) -> str:
    """What the run said at its end."""
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text.rsplit("ENDED ", 1)[1].strip()


def two_versions(line: Line, registered: dict[str, Any]) -> tuple[str, str]:
    """A registered model of its own, so that other tests' aliases stay, with the same files twice."""
    source = line.mlflow_version(registered["name"], registered["version"])["source"]
    line.mlflow("registered-models/create", name=MODEL)
    one = {"name": MODEL, "source": source, "run_id": registered["run_id"], "model_id": source.removeprefix("models:/")}
    first, second = (line.mlflow("model-versions/create", **one)["model_version"]["version"] for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def releases(line: Line, released: Finished, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    runs = line.prefect(
        "flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [released.flow_run_id]}}, sort="START_TIME_DESC"
    )
    given = next(run["parameters"] for run in runs if "registered" in run["parameters"])
    first, second = two_versions(line, given["registered"])
    made = Releases(line, tmp_path_factory.mktemp("releases"), given, (first, second))
    assert made.whole(first) == "created"
    return made


def tags(line: Line, arn: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in line.client("sagemaker").list_tags(ResourceArn=arn)["Tags"]}


def assert_coherent(line: Line, endpoint: str) -> str:
    """One config serves, by name and by a real inference; the registry says the same; nothing else is left. Returns
    the version that serves.
    """
    # The automation comes for runs killed here too, once their heartbeats are missed. Sooner than a lease ends.
    until(lambda: line.prefect_get(f"v2/concurrency_limits/slimline-endpoint-{endpoint}")["active_slots"] == 0, 45)
    sagemaker = line.client("sagemaker")
    seen = sagemaker.describe_endpoint(EndpointName=endpoint)
    assert seen["EndpointStatus"] == "InService" and "PendingDeploymentSummary" not in seen, seen
    serving = seen["EndpointConfigName"]
    reply = line.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, ContentType="application/json", Body=json.dumps({"inputs": "The import statement"})
    )
    assert json.loads(reply["Body"].read())[0]["generated_text"]
    config = sagemaker.describe_endpoint_config(EndpointConfigName=serving)
    version = tags(line, config["EndpointConfigArn"])["slimline:version"]
    assert line.alias(MODEL, "champion") == version

    history = tags(line, seen["EndpointArn"])
    assert history["slimline:moving-to"] == "", history
    wanted = {serving, history["slimline:previous-config"]} - {""}
    configs = sagemaker.list_endpoint_configs(NameContains=f"{endpoint}-v")["EndpointConfigs"]
    assert {entry["EndpointConfigName"] for entry in configs} == wanted
    models = sagemaker.list_models(NameContains=f"{endpoint}-v")["Models"]
    assert {entry["ModelName"] for entry in models} == wanted
    assert line.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{endpoint}-v")["MetricAlarms"] == []
    guards = {entry for entry in ledger(line, endpoint) if f"{endpoint}-standing-" in entry[1]}
    assert ledger(line, endpoint) - guards == {("endpoint", endpoint)} | {
        (kind, name) for name in wanted for kind in ("model", "endpoint-config")
    }
    standing = line.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{endpoint}-standing-")["MetricAlarms"]
    assert {alarm["AlarmName"] for alarm in standing} <= {name for _, name in guards}
    return version


def ledger(line: Line, endpoint: str) -> set[tuple[str, str]]:
    """What the ledger says may exist of the endpoint, read as a line of JSON each and not by the adapter."""
    entries = set()
    for text in (line.stack.home / "ledger.jsonl").read_text().splitlines():
        if text and (record := json.loads(text))["name"].startswith(endpoint):
            change = entries.add if record["event"] == "creating" else entries.discard
            change((record["kind"], record["name"]))
    return entries


@pytest.mark.timeout(7200)  # the long form
def test_a_release_killed_at_a_random_moment_is_brought_to_its_end(
    releases: Releases, request: pytest.FixtureRequest
) -> None:
    """The first is killed under the worker, and the automation follows; the others here, and the next run follows."""
    line, dice = releases.line, random.Random()
    for number in range(request.config.getoption("--kills")):
        releases.mode = list(MODES)[number % len(MODES)]
        serving = assert_coherent(line, ENDPOINT)
        other = next(version for version in releases.versions if version != serving)
        if releases.mode not in releases.seconds:
            assert releases.whole(other) == "promoted"
            serving, other = other, serving
        moment = dice.uniform(0, 1.2) * releases.seconds[releases.mode]
        if number == 0:
            how, end, wanted = "automation", *killed_on_the_worker(releases, other, moment)
        else:
            how, end, wanted = killed_here(releases, number, serving, other, moment)
        now = assert_coherent(line, ENDPOINT)
        begin = f"kill {number + 1}: {releases.mode}, {moment:.1f} s into {other} over {serving}"
        sys.stdout.write(f"{begin}; {how}: {end}; {now} serves\n")
        sys.stdout.flush()
        assert now in wanted


def test_the_last_good_version_comes_back(releases: Releases, request: pytest.FixtureRequest) -> None:
    line, serving = releases.line, assert_coherent(releases.line, ENDPOINT)
    previous = tags(line, line.client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)["EndpointArn"])
    back = line.slimline("run", "restore", "-p", f"endpoint={ENDPOINT}")
    assert back.code == 0, back.text
    if previous["slimline:previous-config"]:
        assert f"{ENDPOINT}: restored" in back.text
        assert assert_coherent(line, ENDPOINT) != serving
        assert line.serving(ENDPOINT) == previous["slimline:previous-config"]
        assert line.alias(MODEL, "previous") is None, "nothing is known to be good before it"
    if request.config.getoption("--kills") == 1:
        return  # tests/tasks/test_restore.py has it: asked again, it moves nothing
    again = line.slimline("run", "restore", "-p", f"endpoint={ENDPOINT}")
    assert again.code == 0 and f"{ENDPOINT}: unchanged" in again.text, again.text
    assert "a real inference answered" in again.text
    assert_coherent(line, ENDPOINT)


def test_an_open_move_is_judged_by_the_plan_of_the_run_that_began_it(releases: Releases) -> None:
    line = releases.line
    flow = line.prefect("flows/", name="release")["id"]
    state = {"type": "FAILED", "name": "Failed"}
    strict, elsewhere = (
        line.prefect(
            "flow_runs/", flow_id=flow, state=state, parameters={"plan": {"endpoint": name, "min_requests": 77}}
        )
        for name in (ENDPOINT, "another")
    )
    unknown = "00000000-0000-4000-8000-000000000000"
    assert releases.judged_by(strict["id"], elsewhere["id"], unknown, "") == [77, 1, 1, 1]


def killed_here(
    releases: Releases, number: int, serving: str, other: str, moment: float
) -> tuple[str, str, tuple[str, ...]]:
    """Kill the whole process group, then run the next. Returns what that was, how it ended, and what may serve now."""
    victim = releases.start(other)
    begun(victim)
    time.sleep(moment)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait(timeout=30)
    at = where(releases.line)
    run = releases.last_run()
    if number % 2 and run is not None:
        return f"{at}; restore flow", ended(releases.finish(run)), releases.versions
    again = other if number % 4 < 2 else serving  # the same release again, or one of the version that served before
    return f"{at}; release of {again}", ended(releases.start(again)), (again,)


def killed_on_the_worker(releases: Releases, version: str, moment: float) -> tuple[str, tuple[str, ...]]:
    """As a deployment: the worker sees the process die, Prefect calls the run Crashed, the automation runs restore."""
    line = releases.line
    run = releases.trigger(version)
    process = until(lambda: worker_child(run))
    until(lambda: line.prefect_get(f"flow_runs/{run}")["state"]["type"] != "PENDING")
    time.sleep(moment)
    with contextlib.suppress(psutil.NoSuchProcess):  # it had ended
        process.kill()
    until(lambda: line.prefect_get(f"flow_runs/{run}")["state"]["type"] in ("CRASHED", "COMPLETED"))
    if line.prefect_get(f"flow_runs/{run}")["state"]["type"] == "COMPLETED":
        return "it had ended", (version,)
    restore = until(lambda: next(iter(restores_of(line, run)), None))
    state = until(lambda: final_state(line, restore))
    assert state == "COMPLETED", line.prefect_get(f"flow_runs/{restore}")["state"]["message"]
    return state, releases.versions


def where(line: Line) -> str:
    """How far the killed release had come."""
    seen = line.client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)
    moving = tags(line, seen["EndpointArn"])["slimline:moving-to"]
    served = "moved" if moving == seen["EndpointConfigName"] else "asked for"
    return f"{seen['EndpointStatus']}, {served if moving else 'nothing asked for'}"


def restores_of(line: Line, run: str) -> list[str]:
    found = line.prefect("flow_runs/filter", flows={"name": {"any_": ["restore"]}}, sort="START_TIME_DESC")
    return [each["id"] for each in found if each["parameters"].get("crashed_run") == run]


def final_state(line: Line, run: str) -> str | None:
    state = line.prefect_get(f"flow_runs/{run}")["state"]["type"]
    return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def worker_child(run: str) -> psutil.Process | None:
    """The process that executes the flow run: what the worker started names it in its environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return process
    return None


def until(look: Callable[[], Any], seconds: float = 240) -> Any:
    """Wait for something to be there."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.3)
    return found
