"""What served when, and which version had which alias: one tag of the version for each move, none ever changed.

MLflow keeps where an alias is, not where it was. A tag a move needs no reading before writing, so two processes lose
nothing, and it outlives endpoint, Prefect server and clock of the embedded stack. Times are UTC, of the machine that
made the move; a move is written before the alias is set, so a killed process that is repeated writes it twice and
reading takes the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

What = Literal["champion", "challenger", "previous", "serves"]

PREFIX = "slimline.history."
_SERVED_ON = "slimline.served_on."  # endpoint: what a search for its versions asks for
_PAGE = 200


@dataclass(frozen=True)
class Move:
    """One thing that changed. ``what`` is an alias, or ``serves``: all traffic of ``endpoint``.

    Attributes:
        config: endpoint config that serves after the move.
        before: the one that served before it.
        run: Prefect flow run that moved it.
    """

    at: datetime
    name: str
    version: str
    what: What
    gained: bool
    endpoint: str = ""
    config: str = ""
    before: str = ""
    variant: str = ""
    run: str = ""
    why: str = ""


@dataclass(frozen=True)
class Span:
    """A stretch of time in which one config had an endpoint's traffic. ``version`` is empty for what is not in the
    registry, such as the original; ``since`` none: before anything was written, ``until`` none: still.
    """

    config: str
    name: str
    version: str
    since: datetime | None
    until: datetime | None
    variant: str = ""
    run: str = ""
    why: str = ""

    def covers(self, at: datetime) -> bool:
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def write_move(client: MlflowClient, move: Move) -> None:
    """Append ``move`` to its version's tags."""
    key = f"{PREFIX}{_stamp(move.at)}.{move.what}"
    kept = {name: value for name, value in asdict(move).items() if name not in ("at", "name", "version") and value}
    client.set_model_version_tag(move.name, move.version, key, json.dumps(kept | {"gained": move.gained}))
    if move.what == "serves":
        client.set_model_version_tag(move.name, move.version, f"{_SERVED_ON}{move.endpoint}", "yes")


def moves_of_model(client: MlflowClient, name: str) -> list[Move]:
    """Every move of the registered model ``name``, in the order of time."""
    return _moves(_versions(client, of_model(name)))


def of_model(name: str) -> str:
    """The condition of a search for a model's versions."""
    return f"name = {quoted(name)}"


def quoted(text: str) -> str:
    """``text`` in a filter of MLflow's: those know no escapes, but both kinds of quotes."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def moves_on_endpoint(client: MlflowClient, endpoint: str) -> list[Move]:
    """Every change of what serves on ``endpoint``, whichever model it is, in the order of time."""
    found = _moves(_versions(client, f"tags.`{_SERVED_ON}{endpoint}` = 'yes'"))
    return [move for move in found if move.what == "serves" and move.endpoint == endpoint]


def alias_at(moves: Iterable[Move], alias: str, at: datetime) -> str | None:
    """The version that had ``alias`` at that moment, or none."""
    holder: str | None = None
    for move in moves:
        if move.what != alias or move.at > at:
            continue
        if move.gained:
            holder = move.version
        elif holder == move.version:
            holder = None
    return holder


def spans(moves: Iterable[Move]) -> list[Span]:
    """What served on an endpoint, stretch by stretch; ``moves`` are of that endpoint, in the order of time."""
    found: list[Span] = []
    for move in moves:
        now = found[-1] if found else None
        if now is None and move.gained and move.before and move.before != move.config:
            now = Span(move.before, "", "", None, None)
            found.append(now)
        if move.gained:
            after = Span(
                move.config, move.name, move.version, move.at, None, variant=move.variant, run=move.run, why=move.why
            )
        else:
            after = Span(move.config, "", "", move.at, None, run=move.run, why=move.why)
        if now is not None and (after.config, after.name, after.version) == (now.config, now.name, now.version):
            continue  # written twice
        if not move.gained and now is not None and (now.name, now.version) != (move.name, move.version):
            continue  # something else serves already
        if now is not None:
            found[-1] = replace(now, until=move.at)
        found.append(after)
    return [span for span in found if span.since is None or span.since != span.until]


def span_at(moves: Iterable[Move], at: datetime) -> Span | None:
    """What served at that moment; none before the first move was written: what that replaced has an unknown beginning,
    and may not have been there yet.
    """
    return next((span for span in spans(moves) if span.since is not None and span.covers(at)), None)


def parse_time(text: str) -> datetime:
    """``2026-11-20``, ``2026-11-20T12:00`` and the like; without an offset it is UTC.

    Raises:
        ValueError: it is no time of ISO 8601.
    """
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _moves(versions: Iterable[ModelVersion]) -> list[Move]:
    found = [
        _move(str(version.name), str(version.version), key, json.loads(value))
        for version in versions
        for key, value in version.tags.items()
        if key.startswith(PREFIX)
    ]
    return sorted(found, key=lambda move: (move.at, move.gained))  # of one moment, first what ended


def _move(name: str, version: str, key: str, kept: dict[str, Any]) -> Move:
    at = datetime.fromisoformat(key.removeprefix(PREFIX).rpartition(".")[0])
    return Move(at=at, name=name, version=version, **kept)


def _versions(client: MlflowClient, condition: str) -> Iterator[ModelVersion]:
    token = None
    while True:
        page = client.search_model_versions(condition, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
