"""What served when, replayed from moves: no database is needed to get this right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.adapters.serving_history import Move, What, alias_at, parse_time, span_at, spans

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def hour(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def move(hours: float, version: str, what: What, gained: bool = True, **more: Any) -> Move:
    return Move(hour(hours), "m", version, what, gained, **more)


def serves(hours: float, version: str, gained: bool = True, **more: Any) -> Move:
    return move(hours, version, "serves", gained, endpoint="prod", **more)


MOVES = [
    serves(0, "1", config="c1", before="c0"),
    serves(2, "1", gained=False, config="c2"),
    serves(2, "2", config="c2", before="c1"),
    serves(2, "2", config="c2", before="c1"),  # a killed run that was repeated
    serves(3, "2", gained=False, config="c0", why="it was slow"),  # back to what is not registered
]


def test_each_moment_has_one_answer() -> None:
    seen = {hours: span_at(MOVES, hour(hours)) for hours in (-1, 0, 1.9, 2, 2.5, 3, 99)}
    assert seen[-1] is None, "what the first move replaced may not have been there yet"
    answers = {hours: (span.config, span.version) for hours, span in seen.items() if span}
    assert answers == {
        0: ("c1", "1"), 1.9: ("c1", "1"), 2: ("c2", "2"), 2.5: ("c2", "2"), 3: ("c0", ""), 99: ("c0", ""),
    }  # fmt: skip


def test_stretches_meet_and_the_last_is_open() -> None:
    found = spans(MOVES)
    assert [span.config for span in found] == ["c0", "c1", "c2", "c0"]
    assert [span.until for span in found[:-1]] == [span.since for span in found[1:]]
    assert found[0].since is None and found[-1].until is None and found[-1].why == "it was slow"


def test_a_late_end_does_not_end_what_serves_by_then() -> None:
    late = [serves(0, "1", config="c1"), serves(1, "2", config="c2"), serves(2, "1", gained=False, config="c2")]
    assert [(span.version, span.until) for span in spans(late)] == [("1", hour(1)), ("2", None)]


def test_an_alias_moves_by_being_given_and_ends_by_being_taken() -> None:
    moves = [
        move(0, "1", "champion"), move(2, "2", "champion"), move(2, "1", "previous"), move(3, "1", "champion"),
        move(3, "1", "previous", gained=False), move(4, "1", "champion", gained=False),
    ]  # fmt: skip
    champions = [alias_at(moves, "champion", hour(at)) for at in (-1, 0, 1, 2, 3.5, 4)]
    assert champions == [None, "1", "1", "2", "1", None]
    assert [alias_at(moves, "previous", hour(at)) for at in (1, 2.5, 3)] == [None, "1", None]


def test_times_are_utc_unless_they_say() -> None:
    assert parse_time("2026-11-20T12:00") == NOON == parse_time("2026-11-20T13:00+01:00")
    assert parse_time("2026-11-20") == hour(-12)
    with pytest.raises(ValueError, match="noon"):
        parse_time("noon")
