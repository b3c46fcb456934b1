"""How far two answers lie apart."""

from __future__ import annotations

import json
import math

import pytest

from tasks.serving.divergence import compare, divergence


def answer(text: str, top: list[dict[str, float]] | None = None) -> str:
    said: dict[str, object] = {"generated_text": text}
    if top is not None:
        said["details"] = {
            "top_tokens": [[{"id": int(token), "logprob": value} for token, value in each.items()] for each in top]
        }
    return json.dumps([said])


def logs(**shares: float) -> dict[str, float]:
    return {token.lstrip("t"): math.log(share) for token, share in shares.items()}


@pytest.mark.parametrize(
    ("old", "new", "agreement", "same", "drift"),
    [
        ("the cat sat.", "the cat sat.", 1.0, True, 0),
        ("the cat sat.", "the cat ran off.", 0.5, False, 1),
        ("the cat", "the cat sat on a mat", 1.0, False, 4),
        ("a b c d", "x y", 0.0, False, -2),
        ("", "", 1.0, True, 0),
        ("words", "", 0.0, False, -1),
    ],
)
def test_tokens_are_compared_in_order_up_to_the_shorter(
    old: str, new: str, agreement: float, same: bool, drift: int
) -> None:
    found = compare('{"inputs": "say"}', answer(old), answer(new))
    assert (found.agreement, found.same, found.drift) == (agreement, same, drift)
    assert found.kl is None, "neither answer has log-probabilities"


def test_the_prompt_is_no_part_of_the_answer() -> None:
    found = compare('{"inputs": "once upon "}', answer("once upon a time"), answer("once upon no time"))
    assert (found.baseline, found.candidate, found.agreement) == ("a time", "no time", 0.5)


def test_what_is_not_json_is_compared_as_it_is() -> None:
    found = compare("not json", "plain words", "plain words")
    assert found.same and found.agreement == 1.0


def test_kl_is_measured_where_both_answers_carry_log_probabilities() -> None:
    same, other = [logs(t1=0.7, t2=0.3)], [logs(t1=0.6, t2=0.4)]
    assert compare("{}", answer("a", same), answer("a", same)).kl == pytest.approx(0, abs=1e-6)
    expected = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
    assert compare("{}", answer("a", same), answer("a", other)).kl == pytest.approx(expected, rel=1e-5)
    assert compare("{}", answer("a", same), answer("a")).kl is None


def test_kl_ends_where_the_answers_part() -> None:
    """After the first different token both read other texts: later positions are not comparable."""
    base, mine = [logs(t1=0.9, t2=0.1), logs(t3=1.0)], [logs(t1=0.1, t2=0.9), logs(t4=1.0)]
    assert divergence(base, mine) == pytest.approx(0.8 * math.log(9), rel=1e-6)


def test_tokens_that_only_one_side_names_count_together() -> None:
    found = divergence([logs(t1=0.5, t2=0.3)], [logs(t1=0.5, t3=0.3)])
    assert found == pytest.approx(0, abs=1e-6), "at least: what is not known is not made up"
