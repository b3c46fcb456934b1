"""What serves after a restore, or after a run that died: every state that SageMaker and the tags can tell."""

from __future__ import annotations

import pytest

from tasks.adapters.sagemaker_history import History, Purpose
from tasks.contracts import Settled
from tasks.errors import ReleaseStuck
from tasks.following import terms_of
from tasks.plans import JudgeRules, ReleasePlan
from tasks.restore import decide, is_enough, require_answer
from tasks.serving.canary import Verdict


def moving(purpose: Purpose = "release") -> History:
    return History(moving_from="old", moving_to="new", purpose=purpose, previous="older", known=True)


@pytest.mark.parametrize(
    ("serving", "on_trial", "good", "action", "target", "bad"),
    [
        ("new", False, True, "finished", "new", None),
        ("new", False, False, "restored", "old", "new"),  # it serves, but it is not proven, or does not answer
        ("old", False, True, "kept", "old", None),  # nothing had moved yet, or SageMaker went back
        ("both", True, True, "restored", "old", None),  # nobody weighs and judges any more
        ("theirs", False, True, "kept", "theirs", None),  # somebody else has moved it since: not ours to undo
    ],
)
def test_a_dead_release_ends_on_the_new_version_only_when_that_is_proven(
    serving: str, on_trial: bool, good: bool, action: str, target: str, bad: str | None
) -> None:
    made = decide(moving(), serving, on_trial, back=False, is_good=lambda: good)
    assert (made.action, made.target, made.bad) == (action, target, bad)


def test_a_person_gets_the_version_before_however_good_the_new_one_is() -> None:
    def unasked() -> bool:
        raise AssertionError("a person has decided")

    ended = History(previous="older", known=True)
    assert decide(ended, "old", False, back=True, is_good=unasked).target == "older"
    assert decide(moving(), "new", False, back=True, is_good=unasked).target == "old"
    assert decide(moving(), "both", True, back=True, is_good=unasked).target == "old"


def test_asked_again_it_moves_nothing() -> None:
    for back in (True, False):
        made = decide(History(known=True), "old", False, back=back, is_good=lambda: False)
        assert (made.action, made.target) == ("unchanged", "old")


@pytest.mark.parametrize("serving", ["old", "new"])
@pytest.mark.parametrize("back", [True, False])
def test_a_restore_that_died_is_finished_and_not_turned_round(serving: str, back: bool) -> None:
    made = decide(moving("restore"), serving, False, back=back, is_good=lambda: True)
    assert (made.action, made.target, made.bad) == ("restored", "new", "old")


@pytest.mark.parametrize(
    ("verdict", "requests", "promote", "proven", "enough"),
    [
        (Verdict.PROMOTE, 10, True, False, True),
        (Verdict.PROMOTE, 9, True, False, False),  # fewer than min_requests
        (Verdict.WAIT, 10, True, False, False),  # the judge was to promote, and is not sure
        (Verdict.WAIT, 10, False, False, True),  # alarms and min_requests promote
        (Verdict.RESTORE, 10, False, False, False),
        (Verdict.WAIT, 0, True, True, True),  # a trial has proven it
        (Verdict.RESTORE, 10, True, True, False),  # and yet it is worse now
    ],
)
def test_a_dead_release_needs_the_evidence_that_a_live_one_does(
    verdict: Verdict, requests: int, promote: bool, proven: bool, enough: bool
) -> None:
    plan = ReleasePlan(min_requests=10, judge=JudgeRules(promote=promote))
    assert is_enough(verdict, requests, plan, proven) is enough


def test_after_a_trial_the_judge_may_only_take_back() -> None:
    shadow = ReleasePlan(mode="SHADOW")
    began = terms_of(History(moving_from="old", moving_to="new"), shadow)
    assert (began.mode, began.judge.promote) == ("CANARY", True), "a guarded move that died is no trial"
    proven = terms_of(History(moving_from="old", moving_to="new", proven_in="both"), shadow)
    assert (proven.mode, proven.judge.promote) == ("CANARY", False)
    plan = ReleasePlan(mode="ALL_AT_ONCE")
    assert terms_of(History(), plan) == plan


def test_that_nothing_answers_is_raised_at_the_end() -> None:
    said = Settled(endpoint="e", action="kept", config="c", version="1", reason="r", probe="no answer", answered=False)
    with pytest.raises(ReleaseStuck, match="does not answer"):
        require_answer(said)
    require_answer(said.model_copy(update={"answered": True}))
