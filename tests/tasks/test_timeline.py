"""The rollout's picture says what a person who was not there needs: what moved, how much failed, how it ended."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Literal

import pytest

from tasks.contracts import FleetShare, Observation, Rollout
from tasks.findings import last_word
from tasks.reporting import _alarms
from tasks.timeline import draw_timeline
from tests.adapters.packages import package

REHEARSAL = "A rehearsal on the embedded stack, with a clock that runs 60 times as fast as the wall clock."


def fleet(config: str, weight: float, requests: int, errors: int = 0) -> FleetShare:
    return FleetShare(
        config=config, weight=weight, instances=2, requests=requests, errors=errors,
        recent_ms=20.0 if requests else None, recent_p90_ms=30.0 if requests else None,
    )  # fmt: skip


def rollout(phase: Literal["promoted", "restored"], *seen: Observation) -> Rollout:
    return Rollout(
        endpoint="prod", phase=phase, config="prod-v1", previous_config="prod-v1", asked_config="prod-v2",
        registered=package("2").registered, observations=seen, probe="Paris", rehearsal=REHEARSAL,
    )  # fmt: skip


def look(at: float, status: str, share: float, old: int, new: int, errors: int = 0, alarm: str = "OK") -> Observation:
    return Observation(
        at=at, status=status, blue=fleet("prod-v1", 1 - share, old), green=fleet("prod-v2", share, new, errors),
        alarms={"prod-v2-errors": alarm},
    )  # fmt: skip


def words(svg: str) -> str:
    return " ".join(text for text in ElementTree.fromstring(svg).itertext() if text.strip())


RESTORED = rollout(
    "restored", look(0, "Updating/Creating", 0, 10, 0), look(60, "Updating/Baking", 0.5, 20, 10, 5),
    look(120, "Updating/Baking", 0.5, 30, 20, 10, "ALARM"), look(180, "InService", 0, 40, 20, 10, "ALARM"),
)  # fmt: skip


def test_it_names_versions_units_verdict_alarm_and_that_it_is_a_rehearsal() -> None:
    text = words(draw_timeline(RESTORED))
    for said in (
        "version 2 on endpoint prod", "old: prod-v1", "new: prod-v2", REHEARSAL, "RESTORED",
        "20 requests, 10 of them 5xx", "alarm: errors", "Share of traffic, %", "5xx answers, %", "Model latency, ms",
        "Seconds since the rollout began", "old version", "new version, p90", "Baking",
    ):  # fmt: skip
        assert said in text, said


def test_the_same_rollout_is_the_same_picture() -> None:
    assert draw_timeline(RESTORED) == draw_timeline(RESTORED)


def test_one_look_is_enough_and_none_is_refused() -> None:
    assert "PROMOTED" in words(draw_timeline(rollout("promoted", look(5, "InService", 1, 0, 3))))
    with pytest.raises(ValueError, match="without observations"):
        draw_timeline(rollout("promoted"))


def test_a_reason_says_what_it_is_a_reason_of() -> None:
    """Of a version that serves, "not yet enough evidence" is not why it serves."""
    good = rollout("promoted", look(5, "InService", 1, 0, 3)).model_copy(update={"reason": "not yet enough evidence"})
    assert last_word(good) == "the judge's last word: not yet enough evidence"
    assert last_word(good.model_copy(update={"phase": "restored"})) == "why: not yet enough evidence"
    assert last_word(good.model_copy(update={"reason": ""})) == ""


def test_the_judges_alarm_without_data_is_not_the_alarms_having_none() -> None:
    quiet = {"a-errors": "OK", "a-latency": "OK", "a-judge": "INSUFFICIENT_DATA"}
    assert _alarms(quiet) == "ok"
    assert _alarms(quiet | {"a-errors": "INSUFFICIENT_DATA"}) == "no data yet"
    assert "judge" in _alarms(quiet | {"a-judge": "ALARM"})
