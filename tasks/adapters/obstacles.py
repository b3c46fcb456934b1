"""One thing that stands in the way of serving a version, or that a person must know before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from tasks.errors import RefusedRequest


@dataclass(frozen=True)
class Obstacle:
    """``refuse``: it would not be served, or not as asked. ``warn``: it is served, with this in mind."""

    severity: Literal["refuse", "warn"]
    rule: str
    cause: str
    observed: str
    limit: str
    remedy: str

    def facts(self) -> dict[str, str]:
        return asdict(self)


def refuse(rule: str, cause: str, observed: str, limit: str, remedy: str) -> Obstacle:
    return Obstacle("refuse", rule, cause, observed, limit, remedy)


def warn(rule: str, cause: str, observed: str, limit: str, remedy: str) -> Obstacle:
    return Obstacle("warn", rule, cause, observed, limit, remedy)


def require_none(found: Iterable[Obstacle]) -> tuple[Obstacle, ...]:
    """The warnings among ``found``.

    Raises:
        RefusedRequest: with every refusal, the first one's cause as its own.
    """
    every = tuple(found)
    hard = [each for each in every if each.severity == "refuse"]
    if not hard:
        return every
    more = "".join(f"; also {each.cause} ({each.observed})" for each in hard[1:])
    raise RefusedRequest(
        hard[0].cause + more,
        observed="; ".join(each.observed for each in hard),
        limit="; ".join(each.limit for each in hard),
        remedy="; ".join(dict.fromkeys(each.remedy for each in hard)),
    )
