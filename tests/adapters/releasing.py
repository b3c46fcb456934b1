"""Releases without Prefect: the steps of flows/release.py on an endpoint of echo servers, under steady load."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tasks.adapters.sagemaker import SageMaker
from tasks.contracts import ModelPackage, Rollout
from tasks.deploy import ask_shift
from tasks.following import follow_rollout, follow_trial, wait_until_serving
from tasks.plans import JudgeRules, Mode, Rehearsal, ReleasePlan
from tasks.scale import make_ready, put_scaling
from tasks.serving.traffic import send_traffic
from tasks.trial import end_other_trial, finish_shadow, finish_trial, start_trial
from tasks.watch import conclude
from tests.adapters.packages import ROLE, package

SPEED = 60
RATE = 40.0
# What some tens of requests to each version can prove, on a machine that does other things too. An echo takes some
# milliseconds, a slow one 600: beyond 30 ** 0.6 = 7.7 times it goes back.
LENIENT = JudgeRules(
    error_margin=0.25, latency_quantile=0.5, latency_ratio=30, harmless=0.6, min_agreement=0.8, patience_seconds=900
)


def plan_of(endpoint: str, mode: Mode, **changes: object) -> ReleasePlan:
    instances = 2 if mode in ("CANARY", "LINEAR", "ROLLING") else 1
    # Only the whole minutes of the first bake can be compared, of which there must be enough on a loaded machine.
    bake = 180 if instances == 1 else 300
    found = ReleasePlan(
        endpoint=endpoint, mode=mode, instances=instances, bake_seconds=bake, min_requests=5, judge=LENIENT,
        max_error_rate=0.9, rehearsal=Rehearsal(requests_per_second=RATE),
    )  # fmt: skip
    return found.model_copy(update=changes)


@dataclass
class Desk:
    """One endpoint service, and releases onto it. The versions differ in what their echo server does."""

    url: str
    folder: Path
    clouds: dict[str, SageMaker] = field(default_factory=dict)
    answered: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)  # statuses, by endpoint and version
    lock: threading.Lock = field(default_factory=threading.Lock)
    senders: dict[str, Callable[[str], int]] = field(default_factory=dict)  # of endpoints that are asked otherwise

    def cloud(self, **environment: str) -> SageMaker:
        """Kept: making boto3's clients costs more than a release."""
        with self.lock:
            key = json.dumps(environment)
            if key not in self.clouds:
                ledger = self.folder / "ledger.jsonl"
                self.clouds[key] = SageMaker("us-east-1", self.url, "slimline-test", ROLE, ledger, environment)
            return self.clouds[key]

    def version(self, number: str) -> ModelPackage:
        """A model folder, uploaded once."""
        folder, digest = self.folder / f"v{number}", number.rjust(64, "0")
        folder.mkdir(exist_ok=True)
        (folder / "says.txt").write_text(f"version {number}")
        return package(number, "echo:1", self.cloud().upload(folder, digest), digest)

    def serve(self, plan: ReleasePlan, number: str = "1") -> str:
        """Create the endpoint. Returns the config's name."""
        cloud = self.cloud()
        name = cloud.rollouts.create(plan.endpoint, self.version(number), plan)
        wait_until_serving(cloud, plan.endpoint)
        return name

    def release(self, plan: ReleasePlan, number: str, **environment: str) -> Rollout:
        """Release under load, as the flow does, and remove what is left. ``answered`` keeps what users got."""
        cloud, new = self.cloud(**environment), self.version(number)
        make_ready(cloud, plan)
        with self.load(plan.endpoint) as self.answered[plan.endpoint, number]:
            end_other_trial(cloud, new, plan)
            rollout = self._beside(cloud, new, plan) if plan.on_trial else self._guarded(cloud, new, plan)
        cloud.remove_alarms(rollout.asked_config)
        cloud.sweep(plan.endpoint, keep={str(rollout.previous_config)})
        cloud.close(plan.endpoint, rollout.previous_config)
        return rollout.model_copy(update={"scaling": put_scaling(cloud, plan)})

    def _guarded(self, cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> Rollout:
        asked = ask_shift(cloud, new, plan)
        return conclude(follow_rollout(cloud, asked, plan, _silent), asked, new, plan, cloud)

    def _beside(self, cloud: SageMaker, new: ModelPackage, plan: ReleasePlan) -> Rollout:
        asked, steps = start_trial(cloud, new, plan), []
        for percent in plan.shares:
            steps.append(follow_trial(cloud, asked, plan, percent, _silent))
            if steps[-1].outcome != "go on":
                break
        if plan.mode != "SHADOW" or steps[-1].outcome != "promoted":
            return finish_trial(cloud, asked, new, plan, tuple(steps), None)
        shifted = self._guarded(cloud, new, plan.after_shadow)
        return finish_shadow(cloud, shifted, asked, tuple(steps), plan)

    @contextmanager
    def load(self, endpoint: str, rate: float = RATE) -> Iterator[Counter[int]]:
        """Requests at a steady rate while the block runs; their statuses are counted."""
        stop, seen, lock = threading.Event(), Counter[int](), threading.Lock()

        def send(prompt: str) -> int:
            status = (self.senders.get(endpoint) or partial(invoke, self.url, endpoint))(prompt)
            with lock:
                seen[status] += 1
            return status

        prompts = [f"a prompt of some words, number {number}" for number in range(20)]
        sender = threading.Thread(target=send_traffic, args=(send, prompts, rate, stop, 120.0), daemon=True)
        sender.start()
        try:
            yield seen
        finally:
            stop.set()
            sender.join(timeout=30)


def invoke(url: str, endpoint: str, prompt: str) -> int:
    """One request as boto3 would send it, without its cost."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    body = json.dumps({"inputs": prompt})
    connection.request("POST", f"/endpoints/{endpoint}/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def _silent(share: float, text: str) -> None:
    pass


def story(rollout: Rollout) -> str:
    """A rollout as lines, for the message of a failed assertion."""
    lines = [f"{rollout.mode} {rollout.phase}: {rollout.reason}"]
    for seen in rollout.observations:
        sides = [
            f"{side.weight:.2f}/{side.requests}/{side.errors}" if side else "-" for side in (seen.blue, seen.green)
        ]
        found = [f"{f.metric} {f.candidate} {f.baseline} r{f.restore:.2f} p{f.promote:.2f}" for f in seen.findings]
        lines.append(f"{seen.at:6.0f} {seen.status:22} {' '.join(sides)} {seen.verdict} {json.dumps(found)}")
    return "\n".join(lines)
