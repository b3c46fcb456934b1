"""Options of the whole suite, and how it is shared out to processes (``make test``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Each shares servers that are started once. The flows mostly wait: two stacks beside each other take half the time.
FLOWS_BESIDE = (
    "automations", "killed_retraining", "observe", "prefect_ui", "release_modes", "scaling", "schedules",
)  # fmt: skip
TOGETHER = ("flows", "flows-beside", "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=1, help="how often each stage, and a release, is killed in the kill tests"
    )
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/requests anew from what is built now"
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # More processes than cores: threads that wait for one another would be most of the time. Before torch loads.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay together, and those of a folder whose servers they share; the longest begin first."""
    groups = {}
    for item in items:
        first, *rest = item.path.relative_to(HERE).parts
        beside = first == "flows" and item.path.stem.removeprefix("test_") in FLOWS_BESIDE
        groups[item] = "flows-beside" if beside else first if first in TOGETHER else "/".join((first, *rest))
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: TOGETHER.index(groups[item]) if groups[item] in TOGETHER else len(TOGETHER))
