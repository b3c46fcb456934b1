"""Every release mode on the endpoint service, with real processes: a good version is promoted, a bad one taken back.

Each mode has an endpoint of its own and the modes run beside each other: most of it is waiting.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tasks.bench import new_pairs
from tasks.contracts import Approval, Rollout, Shift
from tasks.errors import ReleaseStuck
from tasks.following import follow_trial, second_look, wait_until_serving
from tasks.plans import Mode
from tasks.trial import end_other_trial, finish_trial, start_trial
from tests.adapters.releasing import LENIENT, SPEED, Desk, plan_of, story
from tests.local.stack import until

MODES: tuple[Mode, ...] = ("CANARY", "LINEAR", "ALL_AT_ONCE", "ROLLING", "WEIGHTS", "AB_TEST", "SHADOW")
FAULTS = {
    "5xx": {"ECHO_ERROR_SHARE": "0.5"},
    "slow": {"ECHO_SECONDS": "0.6"},
    "dead": {"ECHO_DEAD": "1"},  # /ping answers 200, invocations get no answer
}


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


def test_the_pairs_of_a_shadow_are_in_s3(done: dict[Mode, Future[dict[str, Rollout]]], desk: Desk) -> None:
    rollout = done["SHADOW"].result()["good"]
    asked = Shift(endpoint=rollout.endpoint, wanted_config=rollout.config, previous_config=None, since=0)
    pairs = list(new_pairs(desk.cloud().evidence.captures(asked)))
    assert len(pairs) > 20
    assert len({pair.event for pair in pairs}) == len(pairs)
    assert all("a prompt of some words" in pair.request for pair in pairs)
    assert {(pair.same, pair.agreement, pair.drift) for pair in pairs} == {(True, 1.0, 0)}, "echo servers agree"


def test_an_alarm_sees_a_bad_quarter_that_a_mean_over_both_fleets_would_hide(desk: Desk) -> None:
    """12 % 5xx on a canary of 25 %: 3 % over both fleets, below the alarm's 8 %. The judge has no say here."""
    judge = LENIENT.model_copy(update={"promote": False, "error_margin": 0.9})
    plan = plan_of("m-weak", "CANARY", instances=4, step_percent=25, max_error_rate=0.08, judge=judge)
    blue = desk.serve(plan)
    rollout = desk.release(plan, "2", ECHO_ERROR_SHARE="0.12")
    assert rollout.phase == "restored" and rollout.config == blue, story(rollout)
    assert any(seen.alarms.get(f"{rollout.asked_config}-errors") == "ALARM" for seen in rollout.observations)
    last = rollout.observations[-1]
    assert last.blue and last.green and last.blue.errors == 0 < last.green.errors
    assert last.green.errors / (last.green.requests + last.blue.requests) < 0.08, story(rollout)


@pytest.mark.parametrize("mode", MODES)
def test_no_request_is_lost_on_the_way_there_and_back(
    done: dict[Mode, Future[dict[str, Rollout]]], desk: Desk, mode: Mode
) -> None:
    """A good version is promoted, one that is only slow is taken back: every request got its answer."""
    assert done[mode].result()
    faults = ["5xx", "slow", "dead"] if mode == "SHADOW" else ["slow"]  # of a shadow users never see an answer
    for number in ("2", *(str(3 + list(FAULTS).index(fault)) for fault in faults)):
        statuses = desk.answered[endpoint_of(mode), number]
        assert set(statuses) == {200} and statuses[200] > 30, (number, statuses)


def test_a_release_that_died_on_its_way_goes_on_and_another_one_takes_its_trial_away(desk: Desk) -> None:
    plan = plan_of("m-died", "WEIGHTS", step_percent=40)
    cloud, first = desk.cloud(), desk.serve(plan)
    second, third = desk.version("2"), desk.version("3")
    asked = start_trial(cloud, second, plan)
    assert start_trial(cloud, second, plan) == asked, "asked twice while it starts: asked once"
    wait_until_serving(cloud, plan.endpoint)
    cloud.trials.weigh(plan.endpoint, 80)  # and here it dies
    wait_until_serving(cloud, plan.endpoint)
    found = start_trial(cloud, second, plan)
    assert (found.trial_config, found.previous_config, found.since) == (asked.trial_config, first, asked.since)
    with desk.load(plan.endpoint):
        assert follow_trial(cloud, found, plan, 40, lambda share, text: None).outcome == "go on"
        share = cloud.trials.standing(plan.endpoint).share
    assert share == pytest.approx(0.8), "a step that was reached is not taken back"
    assert cloud.sweep(plan.endpoint) == [], "what the trial needs stays, the previous config too"
    end_other_trial(cloud, third, plan)
    assert cloud.serving_config(plan.endpoint) == first
    end_other_trial(cloud, third, plan)
    cloud.delete_endpoint(plan.endpoint, poll_seconds=0.1)
    assert len(cloud.sweep(plan.endpoint)) == 5  # the first, the second's own, the trial; two models


def test_without_traffic_a_release_waits_for_its_patience_and_goes_back(desk: Desk) -> None:
    plan = plan_of("m-silent", "AB_TEST", judge=LENIENT.model_copy(update={"patience_seconds": 120}))
    cloud, first, new = desk.cloud(), desk.serve(plan), desk.version("2")
    asked = start_trial(cloud, new, plan)
    step = follow_trial(cloud, asked, plan, 50, lambda share, text: None)
    assert (step.outcome, step.observations[-1].verdict) == ("undecided", "")
    stays = plan.model_copy(update={"judge": plan.judge.model_copy(update={"undecided": "stuck"})})
    with pytest.raises(ReleaseStuck, match="no verdict"):
        finish_trial(cloud, asked, new, stays, (step,), None)
    assert cloud.serving_config(plan.endpoint) == asked.trial_config
    rollout = finish_trial(cloud, asked, new, plan, (step,), None)
    assert (rollout.phase, rollout.config) == ("restored", first)
    assert rollout.reason.startswith("no verdict in 120 s")


def test_a_person_who_says_no_ends_a_proven_trial(desk: Desk) -> None:
    plan = plan_of("m-refused", "AB_TEST")
    cloud, first, new = desk.cloud(), desk.serve(plan), desk.version("2")
    asked = start_trial(cloud, new, plan)
    with desk.load(plan.endpoint):
        step = follow_trial(cloud, asked, plan, 50, lambda share, text: None)
    assert step.outcome == "promoted", step.reason
    rollout = finish_trial(cloud, asked, new, plan, (step,), Approval(approved=False, reason="not on a Friday"))
    assert (rollout.phase, rollout.config) == ("restored", first)
    assert "not on a Friday" in rollout.reason and rollout.approval is not None


def test_a_version_that_calls_valid_requests_invalid_is_taken_back(desk: Desk) -> None:
    """400 to half of what the old version answers."""
    plan = plan_of("m-refusing", "AB_TEST")
    first = desk.serve(plan)
    rollout = desk.release(plan, "2", ECHO_ERROR_SHARE="0.5", ECHO_STATUS="400")
    assert (rollout.phase, rollout.config) == ("restored", first), story(rollout)
    assert rollout.reason.startswith("4xx is worse"), story(rollout)


def test_where_nothing_stands_beside_it_the_old_versions_last_hour_does(desk: Desk) -> None:
    plan = plan_of("m-at-once", "ALL_AT_ONCE", bake_seconds=600)
    first = desk.serve(plan)
    with desk.load(plan.endpoint) as before:
        until(lambda: before[200], lambda count: count >= 150)
    time.sleep(60 / SPEED)
    rollout = desk.release(plan, "2", ECHO_ERROR_SHARE="0.9", ECHO_STATUS="400")
    assert (rollout.phase, rollout.config) == ("restored", first), story(rollout)
    assert rollout.reason.startswith("4xx is worse"), story(rollout)


def test_what_a_canary_answered_alone_is_not_compared(done: dict[Mode, Future[dict[str, Rollout]]]) -> None:
    rollout = done["CANARY"].result()["good"]
    last = rollout.observations[-1]
    assert last.green and last.blue and last.findings
    errors = last.findings[0]
    assert 0 < errors.requests < last.green.requests, story(rollout)
    assert abs(errors.requests - errors.baseline_requests) <= 1, "half of the traffic each: weighed alike"


def test_a_yes_to_a_version_that_has_become_worse_meanwhile_takes_it_back(desk: Desk) -> None:
    """Half of its answers fail: proven under a judge who tolerates that, taken back by one who does not."""
    blind = LENIENT.model_copy(update={"error_margin": 0.9, "harmless": 1.0})
    plan = plan_of("m-later", "AB_TEST", judge=blind)
    cloud, first, new = desk.cloud(ECHO_ERROR_SHARE="0.5"), desk.serve(plan), desk.version("2")
    asked = start_trial(cloud, new, plan)
    with desk.load(plan.endpoint):
        step = follow_trial(cloud, asked, plan, 50, lambda share, text: None)
    assert step.outcome == "promoted" and second_look(cloud, asked, plan) is None, step.reason
    strict = plan.model_copy(update={"judge": LENIENT})
    worse = second_look(cloud, asked, strict)
    assert worse is not None and worse.outcome == "restored" and worse.reason.startswith("errors is worse")
    rollout = finish_trial(cloud, asked, new, strict, (step, worse), Approval(approved=True, reason="go"))
    assert (rollout.phase, rollout.config) == ("restored", first)
    assert rollout.reason.startswith("errors is worse")


def test_nothing_is_left(done: dict[Mode, Future[dict[str, Rollout]]], desk: Desk) -> None:
    kept = {done[mode].result()["good"].config for mode in MODES}
    mine = [entry for entry in desk.cloud()._ledger.open_entries() if entry.kind != "endpoint"]
    assert {entry.name for entry in mine if entry.name.startswith(tuple(endpoint_of(mode) for mode in MODES))} == kept
