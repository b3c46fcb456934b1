"""``slimline images``: the vendored table, and AWS's SDK beside it where its environment is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli import app
from deployments.commands.images import compare
from tasks.adapters.engines import find_environment
from tasks.adapters.images import resolve_image
from tasks.adapters.sagemaker_sdk import SDK, asker
from tasks.settings import settings

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "adapters" / "golden" / "sdk_images.json").read_text()
)


def test_the_table_says_what_the_sdk_has_said() -> None:
    """Without the SDK: what it answered when it was recorded."""
    recorded = [row for row in GOLDEN if row["uri"] and row["version"] and row["kind"] != "neuron-vllm"]
    assert len(recorded) > 15
    for row in recorded:
        # An instance type decides the device of Hugging Face's image only.
        kind = "ml.g5.xlarge" if row["kind"] == "lmi" else row["instance_type"]
        assert resolve_image(row["kind"], row["region"], row["version"], kind) == row["uri"]


def test_images_are_listed_and_an_unknown_kind_is_refused() -> None:
    done = CliRunner().invoke(app, ["images", "--region", "eu-west-1", "--kind", "lmi", "--json"])
    rows = json.loads(done.output)
    assert done.exit_code == 0 and {row["kind"] for row in rows} == {"lmi"}
    assert all(row["image"].startswith("763104351884.dkr.ecr.eu-west-1.") for row in rows)
    assert "lmi, huggingface, neuron" in CliRunner().invoke(app, ["images", "--kind", "none"]).output


def test_without_the_sdk_it_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["images", "--sdk"])
    assert done.exit_code == 1 and "slimline engines --build sagemaker" in done.output


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1", "me-west-1"])
def test_table_and_sdk_agree_today(region: str) -> None:
    environment = find_environment(SDK, settings().engines)
    if environment is None:
        pytest.skip("the SageMaker SDK is not built; `slimline engines --build sagemaker` builds it")
    rows = compare(region, None, environment)
    assert [row for row in rows if not row["agrees"]] == []


def test_what_the_table_does_not_know_the_sdk_may() -> None:
    ask = asker(settings().engines)
    if ask is None:
        pytest.skip("the SageMaker SDK is not built; `slimline engines --build sagemaker` builds it")
    assert resolve_image("lmi", "us-east-1", "0.31.0", "ml.g5.xlarge", ask).endswith(
        "djl-inference:0.31.0-lmi13.0.0-cu124"
    )
