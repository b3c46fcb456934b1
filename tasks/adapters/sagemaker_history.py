"""What a release writes on the endpoint itself, as tags: enough for a later run on any machine to bring it to an end.

Written before traffic is asked to move, and closed after everything else is done; so an open release without a live run
is one that has died.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.adapters.aws_connection import Connection
from tasks.adapters.sagemaker_names import tags_of
from tasks.adapters.sagemaker_observe import read_tags

Purpose = Literal["release", "restore"]

_FROM, _TO, _PURPOSE = "slimline:moving-from", "slimline:moving-to", "slimline:moving-for"
_SINCE, _PROVEN = "slimline:moving-since", "slimline:proven-in"
_PREVIOUS, _RUN = "slimline:previous-config", "slimline:flow-run"


@dataclass(frozen=True)
class History:
    """``moving_from`` and ``moving_to`` are configs of a move that has begun and is not known to have ended, none
    otherwise. ``since`` is when it began, by the service's clock. ``proven_in`` is the trial in which the judge has
    promoted ``moving_to``, none where it has not. ``previous`` is the last good config before the serving one.
    ``run``: the flow run that began the move. ``known``: a release has written here.
    """

    moving_from: str | None = None
    moving_to: str | None = None
    purpose: Purpose = "release"
    since: float | None = None
    proven_in: str | None = None
    previous: str | None = None
    run: str = ""
    known: bool = False

    @property
    def open(self) -> bool:
        return self.moving_to is not None

    def releases(self, config: str) -> bool:
        """Whether the move that has begun is a release of ``config``."""
        return self.purpose == "release" and self.moving_to == config


def read_history(aws: Connection, arn: str) -> History:
    """The tags of the endpoint ``arn``."""
    tags = read_tags(aws, arn)
    return History(
        moving_from=tags.get(_FROM) or None,
        moving_to=tags.get(_TO) or None,
        purpose="restore" if tags.get(_PURPOSE) == "restore" else "release",
        since=float(tags[_SINCE]) if tags.get(_SINCE) else None,
        proven_in=tags.get(_PROVEN) or None,
        previous=tags.get(_PREVIOUS) or None,
        run=tags.get(_RUN, ""),
        known=_TO in tags,
    )


def open_release(
    aws: Connection, arn: str, source: str, target: str, run: str, *, proven_in: str | None = None
) -> None:
    """Call before traffic is asked to move from config ``source`` to ``target``.

    A second step of the same release, such as the shift after a shadow, leaves what it came from as it is.
    ``proven_in``: the trial in which the judge has promoted ``target``.
    """
    begun = read_history(aws, arn)
    if begun.releases(target) and begun.moving_from:
        source = begun.moving_from
    moving = {_FROM: source, _TO: target, _PURPOSE: "release", _SINCE: f"{aws.now():.3f}", _PROVEN: proven_in or ""}
    _write(aws, arn, {**moving, _RUN: run})


def open_restore(aws: Connection, arn: str, source: str, target: str, run: str) -> None:
    """Call before traffic is asked to go back from config ``source`` to ``target``."""
    _write(aws, arn, {_FROM: source, _TO: target, _PURPOSE: "restore", _SINCE: "", _PROVEN: "", _RUN: run})


def close_move(aws: Connection, arn: str, previous: str | None) -> None:
    """Call when it has ended and all is tidied. ``previous``: the last good config before the one that serves now."""
    _write(aws, arn, {_FROM: "", _TO: "", _PURPOSE: "", _SINCE: "", _PROVEN: "", _PREVIOUS: previous or ""})


def _write(aws: Connection, arn: str, tags: dict[str, str]) -> None:
    aws.call("sagemaker", "AddTags", ResourceArn=arn, Tags=tags_of(tags))
