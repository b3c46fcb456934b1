"""How a release has ended: a pure judgement of what the endpoint says. No calls, no clock.

InService alone proves nothing: after an automatic rollback the endpoint is InService too, on the old config. A release
has worked when the endpoint names the wanted config, is in service, and has answered a real inference.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do next."""

    WAIT = "wait"
    PROMOTE = "promoted"
    RESTORE = "restored"
    STUCK = "stuck"


MOVING = {"Creating", "Updating", "SystemUpdating", "RollingBack"}


def judge_release(
    status: str | None, serving_config: str | None, wanted_config: str, answered: bool | None = True
) -> Verdict:
    """Judge one look at an endpoint.

    Args:
        status: EndpointStatus, with the variant's status after a slash where there is one (``Updating/Baking``); none
            when it could not be read.
        serving_config: EndpointConfigName that the endpoint names now; none when it could not be read.
        wanted_config: EndpointConfigName that was asked for.
        answered: Whether a real inference was answered since; none while nobody has asked, which is a reason to wait. A
            caller that leaves it out must ask before it reports success.
    """
    if status is None or serving_config is None:
        return Verdict.WAIT
    state = status.partition("/")[0]
    if state in MOVING:
        return Verdict.WAIT
    if state != "InService":  # Failed, OutOfService, UpdateRollbackFailed, Deleting, or a state that we do not know
        return Verdict.STUCK
    if serving_config != wanted_config:
        return Verdict.RESTORE
    if answered is None:
        return Verdict.WAIT
    return Verdict.PROMOTE if answered else Verdict.STUCK
