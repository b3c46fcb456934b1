"""What is sent to AWS for every target by every mode stands in tests/golden/requests, for a reviewer to read.

After a change that is meant: ``pytest tests/adapters/test_golden.py --update-golden``, and read the diff.
"""

from __future__ import annotations

import json

import pytest
from botocore.validate import ParamValidator

from tasks.adapters.sagemaker_limits import check_request, service_model
from tasks.adapters.serveability import obstacles
from tasks.plans import Mode
from tasks.targets import Kind
from tests.adapters.golden import CASES, FOLDER, UNUSED, facts, hub, packaged, path, plan, requests, text


@pytest.mark.parametrize(("kind", "mode"), CASES, ids=[f"{kind}-{mode}" for kind, mode in CASES])
def test_the_requests_are_the_golden_ones(kind: Kind, mode: Mode, pytestconfig: pytest.Config) -> None:
    now = text(requests(kind, mode))
    if pytestconfig.getoption("--update-golden"):
        FOLDER.mkdir(parents=True, exist_ok=True)
        path(kind, mode).write_text(now)
    assert json.loads(now) == json.loads(path(kind, mode).read_text()), "meant? then --update-golden, and read the diff"


@pytest.mark.parametrize(("kind", "mode"), CASES, ids=[f"{kind}-{mode}" for kind, mode in CASES])
def test_every_golden_request_is_within_aws_limits(kind: Kind, mode: Mode) -> None:
    for row in json.loads(path(kind, mode).read_text()):
        shape = service_model(row["service"]).operation_model(row["operation"]).input_shape
        assert not ParamValidator().validate(row["request"], shape).has_errors()
        check_request(row["service"], row["operation"], row["request"])


@pytest.mark.parametrize(("kind", "mode"), CASES, ids=[f"{kind}-{mode}" for kind, mode in CASES])
def test_the_preflight_lets_every_golden_release_pass(kind: Kind, mode: Mode) -> None:
    chosen = plan(kind, mode)
    model = hub(chosen.instance_type) if kind == "jumpstart" else None
    found = obstacles(facts(kind) or UNUSED, chosen, packaged(chosen).image, model)
    assert [each for each in found if each.severity == "refuse"] == []


def test_no_golden_file_is_of_a_release_that_is_no_more() -> None:
    assert {each.name for each in FOLDER.glob("*.json")} == {path(kind, mode).name for kind, mode in CASES}
