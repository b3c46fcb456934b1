from __future__ import annotations

import pytest

from tasks.serving.canary import Verdict, judge_release


@pytest.mark.parametrize(
    ("status", "serving", "answered", "verdict"),
    [
        # no data is not health, and not sickness
        (None, "new", True, Verdict.WAIT),
        ("InService", None, True, Verdict.WAIT),
        ("InService", "new", None, Verdict.WAIT),
        # under way, whatever it serves
        ("Creating", "new", True, Verdict.WAIT),
        ("Updating/Creating", "old", True, Verdict.WAIT),
        ("Updating/Baking", "old", True, Verdict.WAIT),
        ("Updating/Baking", "new", True, Verdict.WAIT),
        ("SystemUpdating", "new", True, Verdict.WAIT),
        ("RollingBack", "old", True, Verdict.WAIT),
        # settled
        ("InService", "new", True, Verdict.PROMOTE),
        ("InService", "old", True, Verdict.RESTORE),
        ("InService", "old", False, Verdict.RESTORE),
        ("InService", "old", None, Verdict.RESTORE),
        # InService and yet no success
        ("InService", "new", False, Verdict.STUCK),
        # not ours to touch
        ("Failed", "new", True, Verdict.STUCK),
        ("OutOfService", "old", True, Verdict.STUCK),
        ("UpdateRollbackFailed", "old", True, Verdict.STUCK),
        ("Deleting", "old", True, Verdict.STUCK),
        ("SomethingNew", "new", True, Verdict.STUCK),
    ],
)
def test_verdict(status: str | None, serving: str | None, answered: bool | None, verdict: Verdict) -> None:
    assert judge_release(status, serving, "new", answered) is verdict
