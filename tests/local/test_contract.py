"""The contract: every operation of the service through plain boto3, held against botocore's service models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from tests.local.contract_suite.rows import ROWS
from tests.local.contract_suite.world import Row, World
from tests.local.stack import Deck

SECTIONS = {  # of the page: whose operations the table below names
    "SageMaker": "sagemaker",
    "SageMaker runtime": "sagemaker-runtime",
    "CloudWatch": "cloudwatch",
    "Application Auto Scaling": "application-autoscaling",
}
PAGE = Path(__file__).parents[2] / "docs" / "endpoint-service.md"


@pytest.fixture(scope="module")
def world(deck: Deck) -> World:
    return World(deck)


@pytest.fixture(scope="module")
def implemented(deck: Deck) -> set[str]:
    """What the running service says it does: ``service.Operation``."""
    answer = requests.get(f"{deck.service.url}/_slimline/operations", timeout=10).json()
    return {f"{service}.{operation}" for service, operations in answer.items() for operation in operations}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_both_sides_fit_the_service_model(world: World, row: Row) -> None:
    world.run(row)


def test_every_operation_has_a_good_call_and_a_refused_one(implemented: set[str]) -> None:
    assert {row.name for row in ROWS if not row.error} == implemented
    assert {row.name for row in ROWS if row.error} == implemented


def test_the_documentation_names_exactly_the_operations_that_there_are(implemented: set[str]) -> None:
    named = set()
    for section in PAGE.read_text().split("\n### ")[1:]:
        service = next((name for title, name in SECTIONS.items() if section.startswith(title + " (")), "")
        for row in re.findall(r"^\| ([A-Z][A-Za-z]+(?:, [A-Z][A-Za-z]+)*) \|", section, re.MULTILINE):
            named |= {f"{service}.{operation}" for operation in row.split(", ")}
    assert named == implemented
