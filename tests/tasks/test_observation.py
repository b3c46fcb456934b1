"""An observation's verdict: degraded is proven, healthy is earned, and everything else is no data."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Answers
from tasks.monitoring_contracts import Load, Observed, Point, Promise, Windows
from tasks.monitoring_plan import ObserveRules
from tasks.observation import Verdict, allowed_ms, decide, wanted_act
from tasks.observe import promised
from tasks.observe_report import draw_observed, observed_markdown
from tasks.plans import ReleasePlan
from tasks.set_off import endpoint_of, set_off_markdown
from tests.tasks.test_gate import scorecard

RULES = ObserveRules()
NONE = Promise(latency_ms=None, note="no scorecard")
BOUNDS = tuple(float(bound) for bound in np.geomspace(1, 100_000, 200))


def answers(requests: int, median_ms: float = 100.0, errors: int = 0, spread: float = 0.3) -> Answers:
    """Log-normal latencies, the same every time."""
    values = np.random.default_rng(7).lognormal(np.log(median_ms), spread, requests)
    counts = tuple(float(np.sum(values <= bound)) for bound in BOUNDS)
    return Answers(requests=requests, errors=errors, bounds=BOUNDS, at_or_below=counts, timed=requests)


def windows(current: Answers, before: Answers) -> Windows:
    points = tuple(
        Point(at=60.0 * minute, requests=10, errors=minute % 2, median_ms=100.0, tail_ms=150.0) for minute in range(120)
    )
    loads = (Load(metric="CPUUtilization", average=120.0, highest=160.0),)
    return Windows(
        since=0, middle=3600, until=7200, period=60, current=current, before=before, points=points, loads=loads
    )


def verdict(current: Answers, before: Answers, promise: Promise = NONE, **alarms: str) -> Verdict:
    return decide(windows(current, before), promise, alarms, "InService", RULES)


def test_as_before_is_healthy_and_says_what_it_rests_on() -> None:
    found = verdict(answers(1000), answers(1000), errors="OK", p90="INSUFFICIENT_DATA")
    assert (found.state, found.causes) == ("healthy", ())
    assert "1000 requests are within every limit" in found.reason
    assert {each.metric for each in found.findings} == {"errors, of all requests", "errors", "latency"}


def test_a_latency_that_has_risen_is_degraded_with_its_figures() -> None:
    found = verdict(answers(600, 250), answers(600, 100))
    assert (found.state, found.causes) == ("degraded", ("latency",))
    assert "2.4 times" in found.reason and "1.5 times is the limit" in found.reason


def test_within_the_ratio_is_no_reason() -> None:
    assert verdict(answers(600, 130), answers(600, 100)).state == "healthy"


def test_a_rise_that_few_requests_do_not_prove_is_neither_good_nor_bad_news() -> None:
    found = verdict(answers(100, 165), answers(100, 100))
    assert found.state == "no data" and "Not proven" in found.reason and "latency" not in found.causes


@pytest.mark.parametrize(("now", "before", "causes"), [
    (60, 0, ("errors, of all requests", "errors")),
    (200, 200, ("errors, of all requests",)),  # as bad as before is not good
    (5, 0, ()),
])  # fmt: skip
def test_errors_against_the_limit_and_against_the_window_before(now: int, before: int, causes: tuple[str, ...]) -> None:
    found = verdict(answers(600, errors=now), answers(600, errors=before))
    assert found.causes == causes and found.state == ("degraded" if causes else "healthy")


def test_no_requests_are_no_good_news_and_an_alarm_is_heard_all_the_same() -> None:
    for few in (0, 99):
        found = verdict(answers(few), answers(1000))
        assert found.state == "no data" and "fewer than 100 say nothing" in found.reason
    assert verdict(answers(0), answers(0), p99="ALARM").causes == ("alarm p99",)


def test_a_full_disk_is_said_and_is_not_the_versions_fault() -> None:
    found = verdict(answers(1000), answers(1000), disk="ALARM")
    assert found.state == "healthy" and "alarm on disk is in ALARM" in found.reason


def test_without_anything_to_compare_the_latency_with_it_is_no_data() -> None:
    found = verdict(answers(1000), answers(0))
    assert found.state == "no data" and "no latency to compare with" in found.reason
    assert verdict(answers(1000, 100), answers(0), Promise(latency_ms=80, note="")).state == "healthy"


def test_the_scorecards_promise_catches_what_crept_up_over_many_windows() -> None:
    promise = Promise(latency_ms=100, note="")
    assert allowed_ms(promise, RULES) == 550
    slow = verdict(answers(1000, 700), answers(1000, 700), promise)
    assert (slow.state, slow.causes) == ("degraded", ("slower than the scorecard allows",))
    assert verdict(answers(1000, 400), answers(1000, 400), promise).state == "healthy"
    shown = RULES.model_copy(update={"scorecard_ratio": 0})
    both = windows(answers(1000, 700), answers(1000, 700))
    assert decide(both, promise, {}, "InService", shown).state == "healthy"


def test_a_scorecard_promises_for_the_folder_that_it_timed_only() -> None:
    card = scorecard()
    timed = card.candidate.model_copy(update={"first_token_ms": 30.0, "per_token_ms": 10.0})
    card, digest = card.model_copy(update={"candidate": timed}), card.served_model.digest
    assert promised(card, "run", "m 1", digest, RULES).latency_ms == 30 + 19 * 10
    other = promised(card, "run", "m 1", "another", RULES)
    assert other.latency_ms is None and "no times of the folder that is served" in other.note


def test_alike_windows_are_called_degraded_no_more_often_than_alpha() -> None:
    """200 pairs of windows that differ by chance alone, and a limit close by."""
    rules = RULES.model_copy(update={"alpha": 0.05, "latency_ratio": 1.05})
    random, wrong = np.random.default_rng(3), 0
    for _ in range(200):
        pair = []
        for _ in range(2):
            values = random.lognormal(4.6, 0.5, 200)
            counts = tuple(float(np.sum(values <= bound)) for bound in BOUNDS)
            errors = int(random.binomial(200, 0.02))
            pair.append(Answers(requests=200, errors=errors, bounds=BOUNDS, at_or_below=counts, timed=200))
        wrong += decide(windows(*pair), NONE, {}, "InService", rules).state == "degraded"
    assert wrong <= 10


def test_a_dead_endpoint_is_degraded() -> None:
    assert decide(windows(answers(0), answers(0)), NONE, {}, "Failed", RULES).causes == ("endpoint Failed",)


def test_nothing_is_set_off_where_nothing_is_degraded_or_a_release_is_under_way() -> None:
    rules = RULES.model_copy(update={"act": "restore"})
    bad, good = Verdict("degraded", "", ("latency",), ()), Verdict("no data", "", (), ())
    assert wanted_act(bad, rules, "") == ("restore", "")
    assert wanted_act(good, rules, "")[0] == "report" and wanted_act(bad, RULES, "")[0] == "report"
    act, why = wanted_act(bad, rules, "a release of new")
    assert act == "report" and "a release of new is under way" in why


def observed(**changes: Any) -> Observed:
    found = verdict(answers(600, 250), answers(600, 100))
    told = {
        "endpoint": "prod", "config": "prod-v2-abc", "version": "m 2", "state": found.state, "reason": found.reason,
        "causes": found.causes, "act": "restore", "findings": found.findings,
        "windows": windows(answers(600, 250), answers(600, 100)), "latency_quantile": 0.9,
        "promise": Promise(latency_ms=80, note="scorecard of m 2"), "alarms": {"p90": "ALARM", "errors": "OK"},
        "rehearsal": "A rehearsal.",
    }  # fmt: skip
    return Observed.model_validate(told | changes)


def test_the_report_says_what_a_person_who_was_not_there_needs() -> None:
    page = observed_markdown(observed())
    for said in (
        "prod: degraded", "2.4 times", "`prod-v2-abc`, m 2", "600 requests in 60 minutes", "80 ms an answer",
        "CPUUtilization: 120 %", "alarm on p90: ALARM", "sets off: restore", "| latency |", "A rehearsal.",
    ):  # fmt: skip
        assert said in page, said


def test_the_picture_has_units_both_windows_and_the_promise_and_is_the_same_twice() -> None:
    svg = draw_observed(observed())
    text = " ".join(part for part in ElementTree.fromstring(svg).itertext() if part.strip())
    for said in (
        "DEGRADED", "Endpoint prod, m 2", "ModelLatency, ms", "5xx answers, %", "Requests a minute",
        "Minutes to the observation", "the window before", "this window", "90th percentile",
        "scorecard's promise", "A rehearsal.",
    ):  # fmt: skip
        assert said in text, said
    assert svg == draw_observed(observed())
    draw_observed(observed(windows=windows(answers(0), answers(0)).model_copy(update={"points": ()}), state="no data"))


def test_a_deployment_releases_to_what_it_names_or_to_the_default_of_the_form() -> None:
    assert endpoint_of({"plan": {"endpoint": "mine", "instances": 2}}) == "mine"
    assert endpoint_of({}) == endpoint_of({"plan": {"instances": 2}}) == ReleasePlan().endpoint
    assert "Nothing retrains for mine" in set_off_markdown("mine", ()) and "`a`, `b`" in set_off_markdown(
        "x", ("a", "b")
    )
