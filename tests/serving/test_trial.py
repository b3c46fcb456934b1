"""Where a trial stands decides what comes next: every state that an endpoint can be in, without an endpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.serving.canary import Verdict
from tasks.serving.trial import Move, Names, Sight, next_move

NAMES = Names(previous="old", trial="both", wanted="new")
HERE = Sight(status="InService", config="both", pending=None, share=0.25, stood=100, requests=50)


def move(sight: Sight = HERE, verdict: Verdict = Verdict.WAIT, percent: int = 25, last: bool = False) -> Move:
    return next_move(
        sight, NAMES, verdict,
        percent=percent, last=last, bake_seconds=60, patience_seconds=600, min_requests=10,
    )  # fmt: skip


@pytest.mark.parametrize("status", ["Creating", "Updating", "SystemUpdating", "RollingBack"])
def test_whatever_moves_is_waited_for(status: str) -> None:
    assert move(replace(HERE, status=status), Verdict.RESTORE) is Move.WAIT
    assert move(replace(HERE, config="old", pending="both")) is Move.WAIT


@pytest.mark.parametrize("status", ["Failed", "OutOfService", "UpdateRollbackFailed", "Deleting"])
def test_a_broken_endpoint_is_not_touched(status: str) -> None:
    assert move(replace(HERE, status=status)) is Move.STUCK


def test_the_config_says_whether_the_trial_has_ended() -> None:
    assert move(replace(HERE, config="new", share=None)) is Move.PROMOTE
    assert move(replace(HERE, config="old", share=None)) is Move.RESTORE
    assert move(replace(HERE, config="someone-elses")) is Move.STUCK
    assert move(replace(HERE, share=None)) is Move.STUCK


def test_a_share_is_asked_for_once_and_never_taken_back() -> None:
    assert move(replace(HERE, share=0.0)) is Move.WEIGH
    assert move(replace(HERE, share=0.2499)) is Move.GO_ON
    assert move(replace(HERE, share=0.5, stood=0, requests=0)) is Move.GO_ON, "an earlier run came further"


def test_a_step_stands_for_its_bake_and_its_requests() -> None:
    assert move() is Move.GO_ON
    assert move(replace(HERE, stood=59)) is Move.WAIT
    assert move(replace(HERE, requests=9)) is Move.WAIT
    assert move(replace(HERE, requests=9, stood=661)) is Move.UNDECIDED


def test_the_last_step_needs_a_verdict() -> None:
    assert move(last=True) is Move.WAIT
    assert move(verdict=Verdict.PROMOTE, last=True) is Move.PROMOTE
    assert move(replace(HERE, stood=10), Verdict.PROMOTE, last=True) is Move.WAIT
    assert move(replace(HERE, stood=661), last=True) is Move.UNDECIDED


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
def test_a_worse_version_leaves_at_once_wherever_it_stands(share: float, last: bool) -> None:
    assert move(replace(HERE, share=share, stood=0), Verdict.RESTORE, last=last) is Move.RESTORE
