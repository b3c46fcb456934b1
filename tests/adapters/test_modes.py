"""Every release mode on the endpoint service, with real processes: a good version is promoted, a bad one taken back.

Each mode has an endpoint of its own and the modes run beside each other: most of it is waiting.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tasks.contracts import Rollout
from tasks.recipes import Mode
from tests.adapters.releasing import SPEED, Desk, plan_of, story
from tests.local.stack import Service

MODES: tuple[Mode, ...] = ("CANARY", "LINEAR", "ALL_AT_ONCE", "ROLLING", "WEIGHTS", "AB_TEST", "SHADOW")
FAULTS = {
    "5xx": {"ECHO_ERROR_SHARE": "0.5"},
    "slow": {"ECHO_SECONDS": "0.6"},
    "dead": {"ECHO_DEAD": "1"},  # /ping answers 200, invocations get no answer
}


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "embedded")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "embedded")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("modes")
    service = Service(folder / "service", "--speed", str(SPEED), "--max-instances", "64")
    yield Desk(service.url, folder)
    service.stop()


def endpoint_of(mode: Mode) -> str:
    return f"m-{mode.lower().replace('_', '-')}"


def releases(desk: Desk, mode: Mode) -> dict[str, Rollout]:
    """The good version, then every bad one against it; then nothing of them is left."""
    # Without an old version's traffic beside it, the alarms' limits are what the judge compares with.
    limits = {"max_latency_ms": 300.0, "max_error_rate": 0.2} if mode == "ALL_AT_ONCE" else {}
    plan = plan_of(endpoint_of(mode), mode, **limits)
    desk.serve(plan)
    done = {"good": desk.release(plan, "2")}
    for number, (name, environment) in enumerate(FAULTS.items(), start=3):
        done[name] = desk.release(plan, str(number), **environment)
    return done


@pytest.fixture(scope="module")
def done(desk: Desk) -> Iterator[dict[Mode, Future[dict[str, Rollout]]]]:
    with ThreadPoolExecutor(3) as pool:
        yield {mode: pool.submit(releases, desk, mode) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_a_good_version_is_promoted(done: dict[Mode, Future[dict[str, Rollout]]], mode: Mode) -> None:
    rollout = done[mode].result()["good"]
    assert rollout.phase == "promoted", story(rollout)
    assert rollout.config == rollout.asked_config != rollout.previous_config
    assert (rollout.trial_config is not None) == (mode in ("WEIGHTS", "AB_TEST", "SHADOW"))
    last = rollout.observations[-1]
    assert last.verdict == "promoted" and all(finding.promote == 1 for finding in last.findings), story(rollout)
    assert {finding.metric for seen in rollout.observations for finding in seen.findings} >= {"errors"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mode", MODES)
def test_a_bad_version_is_taken_back(
    done: dict[Mode, Future[dict[str, Rollout]]], desk: Desk, mode: Mode, fault: str
) -> None:
    found = done[mode].result()
    rollout, good = found[fault], found["good"]
    assert rollout.phase == "restored", story(rollout)
    assert rollout.config == rollout.previous_config == good.config
    said = "latency" if fault == "slow" and mode != "ALL_AT_ONCE" else "slow answers" if fault == "slow" else "errors"
    alarmed = any(state == "ALARM" for seen in rollout.observations for state in seen.alarms.values())
    assert rollout.reason.startswith(f"{said} is worse") or alarmed, story(rollout)


def test_nothing_is_left(done: dict[Mode, Future[dict[str, Rollout]]], desk: Desk) -> None:
    kept = {done[mode].result()["good"].config for mode in MODES}
    assert {entry.name for entry in desk.cloud()._ledger.open_entries() if entry.kind != "endpoint"} == kept
    with urllib.request.urlopen(f"{desk.url}/_slimline/info", timeout=10) as answer:
        assert answer.status == 200
