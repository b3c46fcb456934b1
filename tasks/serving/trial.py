"""What a release on trial does next, from what the endpoint says: a pure judgement. No calls, no clock.

The endpoint stands on the previous config, on the trial, or on the wanted one; nothing else needs to be remembered, so
a release that died anywhere goes on from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tasks.serving.canary import MOVING, Verdict

_CLOSE = 0.005  # weights are told as fractions


class Move(Enum):
    """What to do next."""

    WAIT = "wait"
    WEIGH = "weigh"  # ask for this step's share of the traffic
    GO_ON = "go on"  # this step is done
    PROMOTE = "promoted"
    RESTORE = "restored"
    UNDECIDED = "undecided"  # patience is over
    STUCK = "stuck"  # a state that we must not touch


@dataclass(frozen=True)
class Names:
    """EndpointConfigNames of one release on trial."""

    previous: str
    trial: str
    wanted: str


@dataclass(frozen=True)
class Sight:
    """One look. ``share``: the new version's part of the traffic, none where it has no variant; ``stood``: seconds
    since the endpoint last changed.
    """

    status: str
    config: str
    pending: str | None
    share: float | None
    stood: float
    requests: int


def next_move(
    sight: Sight,
    names: Names,
    verdict: Verdict,
    *,
    percent: int,
    last: bool,
    bake_seconds: float,
    patience_seconds: float,
    min_requests: int,
) -> Move:
    """The next move of the step that gives the new version ``percent`` of the traffic.

    Args:
        verdict: The judge's, on everything so far.
        last: Whether this is the last step: it ends with a verdict, the others with their bake.
        bake_seconds: A step stands at least so long.
        patience_seconds: And at most so much longer.
        min_requests: The new version must have answered so many.
    """
    if sight.status in MOVING or sight.pending not in (None, sight.config):
        return Move.WAIT
    if sight.status != "InService":
        return Move.STUCK
    if sight.config == names.wanted:
        return Move.PROMOTE
    if sight.config == names.previous:
        return Move.RESTORE
    if sight.config != names.trial or sight.share is None:
        return Move.STUCK
    if verdict is Verdict.RESTORE:
        return Move.RESTORE
    if sight.share < percent / 100 - _CLOSE:
        return Move.WEIGH
    if sight.share > percent / 100 + _CLOSE and not last:
        return Move.GO_ON  # an earlier run came further
    if sight.stood >= bake_seconds and sight.requests >= min_requests and (not last or verdict is Verdict.PROMOTE):
        return Move.PROMOTE if last else Move.GO_ON
    return Move.UNDECIDED if sight.stood > bake_seconds + patience_seconds else Move.WAIT
