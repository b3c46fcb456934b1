"""Load on the real inference container: what clients see, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters.serving_load import serve, under_load
from tasks.errors import SlimlineError
from tests.serving.tiny_folder import write_tiny_folder


def test_every_answer_is_timed_and_the_server_ends(tmp_path: Path) -> None:
    with serve(write_tiny_folder(tmp_path / "tiny"), 1) as served:
        one = under_load(served, ["hello", "a longer prompt"], 1, 3, 8)
        two = under_load(served, ["hello", "a longer prompt"], 2, 4, 8)
    assert served.process.poll() == 0, "it drained and left by itself"
    assert (one.requests, one.failed, two.requests, two.concurrency) == (3, 0, 4, 2)
    assert 3 <= one.tokens <= 24 and one.seconds > 0
    assert one.quantile("first", 0.9) >= one.quantile("first", 0.5) > 0
    assert one.peak_bytes > 50e6


def test_a_server_that_answers_nothing_is_an_error_and_not_a_fast_one(tmp_path: Path) -> None:
    with serve(write_tiny_folder(tmp_path / "tiny"), 1) as served:
        served.process.kill()
        served.process.wait()
        with pytest.raises(SlimlineError, match="answered none of the requests"):
            under_load(served, ["hello"], 1, 2, 8)


def test_a_folder_that_cannot_be_served_is_said_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlimlineError, match="did not become ready"), serve(tmp_path / "empty", 1):
        pass
