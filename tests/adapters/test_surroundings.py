"""What is installed is read from folder names, and must be what the packages themselves say."""

from __future__ import annotations

import re
from importlib.metadata import distributions

from tasks.adapters.surroundings import NUMERICAL, look_around


def test_packages_are_those_that_python_finds_with_their_versions() -> None:
    told = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in distributions()}
    seen = look_around("cpu", 1).packages
    assert seen == told
    assert set(NUMERICAL) <= set(seen)
