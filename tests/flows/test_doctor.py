"""The doctor on the whole embedded stack, up."""

from __future__ import annotations

import json

import pytest

from tests.flows.conftest import Line


@pytest.mark.stack
def test_the_stack_is_in_order(line: Line) -> None:
    done = line.slimline("doctor", "--json", env={"SLIMLINE_MIN_FREE_GB": "0"})
    assert done.code == 0, done.text
    found = {each["check"]: each for each in json.loads(done.text)["checks"]}
    ok = {check for check, each in found.items() if each["state"] == "ok"}
    assert ok == {"python", "packages", "disk", "prefect", "mlflow", "region", "credentials"}
    assert all(each["state"] == "skipped" for check, each in found.items() if check not in ok)
    assert "times as fast" in found["clock"]["observed"]
    full = line.slimline("doctor", "--json", env={"SLIMLINE_MIN_FREE_GB": "1e9"})
    disk = next(each for each in json.loads(full.out)["checks"] if each["check"] == "disk")
    assert full.code == 3 and disk["state"] == "failed" and "SLIMLINE_MIN_FREE_GB" in disk["remedy"]
