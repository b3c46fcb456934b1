"""The AWS CLI as a foreign client: a release from its model to its deletion, by the ``aws`` program alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.stack import IMAGE, ROLE, Deck, canary, until, variant


class Cli:
    """Runs ``aws`` against the service, with nothing of this machine's own configuration."""

    def __init__(self, url: str, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._environment = kept | {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def __call__(self, service: str, operation: str, *positional: str, **options: Any) -> Any:
        """``model_name="m"`` becomes ``--model-name m``; what is not text becomes JSON. Gives what it prints."""
        done = self.attempt(service, operation, *positional, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def attempt(
        self, service: str, operation: str, *positional: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "awscli", service, operation, *positional, "--output", "json"]
        for name, value in options.items():
            command += ["--" + name.replace("_", "-"), value if isinstance(value, str) else json.dumps(value)]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def aws(deck: Deck, tmp_path: Path) -> Cli:
    return Cli(deck.service.url, tmp_path)


def test_a_whole_release_by_the_aws_program(aws: Cli, deck: Deck, tmp_path: Path) -> None:
    aws("sagemaker", "create-model", model_name="cli", primary_container={"Image": IMAGE}, execution_role_arn=ROLE)
    for name in ("cli-old", "cli-new"):
        variants = [variant("main", "cli", count=2)]
        made = aws("sagemaker", "create-endpoint-config", endpoint_config_name=name, production_variants=variants)
        assert made["EndpointConfigArn"].endswith(f"endpoint-config/{name}")
    aws("sagemaker", "create-endpoint", endpoint_name="cli", endpoint_config_name="cli-old")
    deck.settled("cli")  # the waiter below looks every 30 s
    aws("sagemaker", "wait", "endpoint-in-service", endpoint_name="cli")
    aws(
        "sagemaker", "update-endpoint", endpoint_name="cli", endpoint_config_name="cli-new",
        deployment_config=canary(50, wait=60, end=0),
    )  # fmt: skip
    deck.settled("cli")
    seen = aws("sagemaker", "describe-endpoint", endpoint_name="cli")
    assert seen["EndpointConfigName"] == "cli-new"
    assert seen["LastDeploymentConfig"] == canary(50, wait=60, end=0)
    body, answer = tmp_path / "body.json", tmp_path / "answer.json"
    body.write_text('{"inputs": "from the command line"}')
    told = aws(
        "sagemaker-runtime", "invoke-endpoint", str(answer), endpoint_name="cli", body=f"fileb://{body}",
        content_type="application/json",
    )  # fmt: skip
    assert told["InvokedProductionVariant"] == "main"
    assert json.loads(answer.read_text())[0]["generated_text"] == "from the command line"
    wanted = [{"VariantName": "main", "DesiredWeight": 3.0, "DesiredInstanceCount": 1}]
    operation = "update-endpoint-weights-and-capacities"
    aws("sagemaker", operation, endpoint_name="cli", desired_weights_and_capacities=wanted)
    assert deck.settled("cli")["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    refused = aws.attempt("sagemaker", "delete-endpoint-config", endpoint_config_name="absent")
    assert refused.returncode != 0 and "(ValidationException)" in refused.stderr
    aws("sagemaker", "delete-endpoint", endpoint_name="cli")
    until(lambda: deck.sagemaker.list_endpoints(NameContains="cli")["Endpoints"], lambda found: not found)
    aws("sagemaker", "wait", "endpoint-deleted", endpoint_name="cli")
    for name in ("cli-old", "cli-new"):
        aws("sagemaker", "delete-endpoint-config", endpoint_config_name=name)
    aws("sagemaker", "delete-model", model_name="cli")
    assert deck.sagemaker.list_models(NameContains="cli")["Models"] == []
