"""deployments/aws/README.md, followed by the AWS CLI on moto, and ``slimline doctor`` before, after and in trouble."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from typer.testing import CliRunner

from deployments.cli import app
from tests.adapters.iam import allowed
from tests.local.stack import Service

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "deployments/aws/README.md").read_text()
ACCOUNT, REGION, BUCKET = "111111111111", "eu-central-1", "my-slimline-models"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/slimline-inference:0.1.0"

# moto with two answers more, from what it holds: IAM's simulation decides by the policies that were put on the role,
# and Service Quotas lists an account's SageMaker quotas as AWS names them.
MOTO = """
import json, sys
from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse
from moto.iam.models import iam_backends
from moto.servicequotas.responses import ServiceQuotasResponse
from tests.adapters.iam import allowed

def simulate(self):
    role = self._get_param("PolicySourceArn").rpartition("/")[2]
    backend = self.backend
    held = backend.get_role(role)
    texts = [*held.policies.values(), *(policy.versions[-1].document for policy in held.managed_policies.values())]
    statements = [each for text in texts for each in json.loads(text)["Statement"]]
    context = {each["ContextKeyName"]: each["ContextKeyValues"] for each in self._get_param("ContextEntries", [])}
    context = {key: values if key == "aws:TagKeys" else values[0] for key, values in context.items()}
    results = [
        {"EvalActionName": action, "EvalResourceName": resource,
         "EvalDecision": "allowed" if allowed(statements, action, resource, context) else "implicitDeny"}
        for action in self._get_param("ActionNames") for resource in self._get_param("ResourceArns")
    ]
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})

def quotas(self):
    rows = [("ml.m5.xlarge for endpoint usage", 4.0), ("ml.g6e.xlarge for endpoint usage", 0.0)]
    start = int(json.loads(self.body).get("NextToken") or 0)
    page = {"Quotas": [{"QuotaName": n, "Value": v, "ServiceCode": "sagemaker"} for n, v in rows[start : start + 1]]}
    return json.dumps(page | ({"NextToken": str(start + 1)} if start + 1 < len(rows) else {}))

IamResponse.simulate_principal_policy = simulate
ServiceQuotasResponse.list_service_quotas = quotas
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Aws:
    """An account in moto's hands. There is no ``/_slimline``, so the doctor takes it for AWS."""

    url: str
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SLIMLINE_"))}
        return kept | {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION, "AWS_CONFIG_FILE": str(self.home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "credentials"), "AWS_EC2_METADATA_DISABLED": "true",
            "SLIMLINE_MIN_FREE_GB": "0",  # of whatever machine this is
            "SLIMLINE_HOME": str(self.home), "SLIMLINE_BUCKET": BUCKET, "SLIMLINE_IMAGE": IMAGE,
            "SLIMLINE_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/slimline-endpoint",
            "SLIMLINE_MLFLOW_URL": "http://127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api",
        } | more  # fmt: skip

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    port, home = free_port(), tmp_path_factory.mktemp("account")
    environment = {**os.environ, "MOTO_ACCOUNT_ID": ACCOUNT, "PYTHONPATH": str(ROOT)}
    with (home / "moto.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", MOTO, str(port)], env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    while True:
        assert process.poll() is None, (home / "moto.log").read_text()
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{url}/moto-api/data.json", timeout=5)
            break
    yield Aws(url, home)
    process.terminate()
    process.wait(20)


def doctor(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """(exit code, findings by check, what a person sees)."""
    command = [sys.executable, "-m", "deployments.cli", "doctor", "--aws", *arguments]
    done = subprocess.run([*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["checks"]}, done.stderr


def states(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {check: each["state"] for check, each in found.items()}


def test_before_anything_is_set_up_the_doctor_names_what_is_missing(aws: Aws) -> None:
    code, found, _ = doctor(aws.environment())
    assert code == 3
    seen = states(found)
    assert {seen[check] for check in ("python", "packages", "disk", "region", "clock", "credentials", "quota")} == {
        "ok"
    }
    assert {seen[check] for check in ("prefect", "mlflow", "bucket", "execution role", "image")} == {"failed"}
    assert "README" in found["bucket"]["remedy"] and "execution-role-trust" in found["execution role"]["remedy"]
    assert all(each["remedy"] for each in found.values() if each["state"] == "failed")


@pytest.mark.parametrize("key", [True, False], ids=["with a key", "without"])
def test_the_steps_of_the_readme_lead_to_an_account_that_the_doctor_finds_in_order(aws: Aws, key: bool) -> None:
    requests.post(f"{aws.url}/moto-api/reset", timeout=10)
    steps = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(steps) == 7
    *setup, settings = steps if key else [step for step in steps if "kms create-key" not in step]
    program = f"{shlex.quote(sys.executable)} -m awscli"
    script = "\n".join([
        f"set -euo pipefail; aws() {{ {program} \"$@\"; }}",
        "docker() { if [ \"$1\" = login ]; then cat > /dev/null; fi; echo docker \"$@\"; }",
        *setup,
    ])  # fmt: skip
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=aws.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"docker push {IMAGE}" in done.stdout
    aws.client("ecr").put_image(repositoryName="slimline-inference", imageManifest=MANIFEST, imageTag="0.1.0")

    bucket = aws.client("s3").get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert ("KMSMasterKeyID" in bucket["ApplyServerSideEncryptionByDefault"]) == key
    lifecycle = aws.client("s3").get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert lifecycle[0]["Filter"] == {"Prefix": "captures/"} and lifecycle[0]["Expiration"] == {"Days": 30}
    denied = json.loads(aws.client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
    assert all(statement["Effect"] == "Deny" for statement in denied)

    assert "slimline doctor --aws" in settings
    arguments = shlex.split(settings.partition("slimline doctor --aws")[2])
    code, found, _ = doctor(assumed(aws), *arguments)
    assert {check for check, state in states(found).items() if state != "ok"} == {"prefect", "mlflow"}, found
    assert code == 3, "the two servers are not there"
    assert "assumed-role/slimline-release" in found["credentials"]["observed"]


MANIFEST = json.dumps({
    "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": f"sha256:{0:064}"},
    "layers": [],
})  # fmt: skip


def assumed(aws: Aws) -> dict[str, str]:
    """As slimline-release: what the profile of the README would have fetched."""
    role = f"arn:aws:iam::{ACCOUNT}:role/slimline-release"
    keys = aws.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return aws.environment(
        AWS_ACCESS_KEY_ID=keys["AccessKeyId"], AWS_SECRET_ACCESS_KEY=keys["SecretAccessKey"],
        AWS_SESSION_TOKEN=keys["SessionToken"],
    )  # fmt: skip


def test_what_is_taken_away_again_the_doctor_finds(aws: Aws) -> None:
    """Runs on the account that the README's steps have made."""
    iam, s3 = aws.client("iam"), aws.client("s3")
    policy = f"arn:aws:iam::{ACCOUNT}:policy/slimline-release"
    iam.detach_role_policy(RoleName="slimline-release", PolicyArn=policy)
    trust = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ]}  # fmt: skip
    iam.update_assume_role_policy(RoleName="slimline-endpoint", PolicyDocument=json.dumps(trust))
    s3.delete_public_access_block(Bucket=BUCKET)
    aws.client("ecr").batch_delete_image(repositoryName="slimline-inference", imageIds=[{"imageTag": "0.1.0"}])
    code, found, _ = doctor(assumed(aws), "--instance-type", "ml.g6e.xlarge")
    assert code == 3
    assert "sagemaker:CreateModel" in found["release rights"]["observed"]
    assert "release-role-policy.json" in found["release rights"]["remedy"]
    assert "SageMaker may not take it on" in found["execution role"]["observed"]
    assert "BlockPublicAcls" in found["bucket public access"]["observed"]
    assert "ImageNotFoundException" in found["image"]["observed"]
    assert found["quota"]["state"] == "failed" and "ml.g6e.xlarge for endpoint usage: 0" in found["quota"]["observed"]


def test_a_bucket_of_another_region_is_found(aws: Aws) -> None:
    place = {"LocationConstraint": "eu-west-1"}
    boto3.client(
        "s3", endpoint_url=aws.url, region_name="eu-west-1", aws_access_key_id="t", aws_secret_access_key="t"
    ).create_bucket(Bucket="far-away", CreateBucketConfiguration=place)
    _, found, _ = doctor(aws.environment(SLIMLINE_BUCKET="far-away", SLIMLINE_IMAGE=IMAGE.replace(REGION, "eu-west-1")))
    assert found["bucket"]["state"] == found["image"]["state"] == "failed"
    assert "eu-west-1" in found["bucket"]["observed"] and "AWS_REGION=eu-west-1" in found["bucket"]["remedy"]
    assert "another region" in found["image"]["observed"]


def test_a_region_that_botocore_does_not_know_is_found(aws: Aws) -> None:
    _, found, _ = doctor(aws.environment(AWS_REGION="eu-centrall-1"))
    assert found["region"]["state"] == "failed" and "AWS_REGION" in found["region"]["remedy"]


def test_without_credentials_it_says_so_once(aws: Aws) -> None:
    environment = {
        name: value for name, value in aws.environment().items()
        if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }  # fmt: skip
    code, found, _ = doctor(environment)
    assert code == 3
    assert found["credentials"]["state"] == "failed" and "profile or a role" in found["credentials"]["remedy"]
    assert found["clock"]["state"] == "ok", "needs no credentials"
    assert {states(found)[check] for check in ("bucket", "execution role", "image", "quota")} == {"skipped"}


def test_without_a_region_it_says_so(aws: Aws) -> None:
    environment = {name: value for name, value in aws.environment().items() if name != "AWS_REGION"}
    code, found, _ = doctor(environment)
    assert code == 3 and found["region"]["state"] == "failed" and "AWS_REGION" in found["region"]["remedy"]


class _Refusing(BaseHTTPRequestHandler):
    """AWS's query and JSON services as they answer to everything, for the code and text of the server."""

    protocol_version = "HTTP/1.1"
    code, text, status = "", "", 403

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        if self.path.startswith("/_slimline"):
            self.send_error(404)
            return
        inner = f"<Error><Code>{self.code}</Code><Message>{self.text}</Message></Error>"
        body = "" if self.command == "HEAD" else f"<ErrorResponse>{inner}</ErrorResponse>"
        if "X-Amz-Target" in self.headers:
            body = json.dumps({"__type": self.code, "message": self.text})
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        ("ExpiredToken", "The security token included in the request is expired", "have expired"),
        ("InvalidClientTokenId", "The security token included in the request is invalid", "does not know"),
        ("SignatureDoesNotMatch", "Signature expired: 20261127T0700Z is now earlier than 20261127T0720Z", "clock"),
    ],
)
def test_credentials_that_are_refused_are_named(aws: Aws, code: str, text: str, said: str) -> None:
    handler = type("Handler", (_Refusing,), {"code": code, "text": text})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        exit_code, found, _ = doctor(aws.environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    assert exit_code == 3 and said in found["credentials"]["observed"]
    assert states(found)["bucket"] == "skipped"


def test_what_may_not_be_looked_at_is_unknown_and_not_ok(aws: Aws, credentials: None) -> None:
    from tasks.adapters import aws_account, aws_resources
    from tasks.adapters.aws_connection import Connection

    handler = type("Handler", (_Refusing,), {"code": "AccessDenied", "text": "not authorized"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = Connection(REGION, f"http://127.0.0.1:{server.server_port}")
        found = [
            aws_resources.role(connection, "arn:aws:iam::1:role/slimline-endpoint"),
            aws_account.quota(connection, "ml.m5.xlarge", 2), aws_resources.image(connection, IMAGE),
            *aws_resources.bucket(connection, BUCKET),
        ]  # fmt: skip
        server.shutdown()
    assert {each.state for each in found} == {"unknown"}
    assert all("doctor-policy.json" in each.remedy for each in found)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service(tmp_path / "service", "--speed", "1")
    yield service
    service.stop()


def test_a_clock_that_is_twenty_minutes_off_is_found_on_the_embedded_stack(aws: Aws, embedded: Service) -> None:
    environment = aws.environment(AWS_ENDPOINT_URL=embedded.url)
    _, found, _ = doctor(environment)
    assert states(found)["clock"] == "ok"
    assert states(found)["credentials"] == "ok"
    assert states(found)["bucket"] == states(found)["quota"] == "skipped"
    answer = requests.post(f"{embedded.url}/_slimline/faults", json={"kind": "clock_jump", "seconds": 1200}, timeout=10)
    assert answer.status_code == 201
    code, found, _ = doctor(environment)
    assert code == 3
    assert found["clock"]["state"] == "failed" and "behind" in found["clock"]["observed"]
    assert "NTP" in found["clock"]["remedy"]


def test_a_person_sees_a_table_and_below_it_what_to_do(
    embedded: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command as it is for the stack: its servers are not up, and nothing else is asked of AWS."""
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "140")
    port = int(embedded.url.rpartition(":")[2])
    before = dict(os.environ)
    try:
        shown = CliRunner().invoke(app, ["doctor", "--base-port", str(port - 2)])
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert shown.exit_code == 3, shown.output
    assert re.search(r"✓ +│ python", shown.output) and re.search(r"✗ +│ prefect", shown.output), shown.output
    assert "prefect: slimline up, or set PREFECT_API_URL" in shown.output
    assert "skipped" in shown.output and "failed" in shown.output


def test_the_evaluator_of_the_tests_denies_what_no_statement_allows() -> None:
    statement = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::b/models/*",
                 "Condition": {"StringEquals": {"aws:ResourceAccount": "1"}}}  # fmt: skip
    ours = {"aws:ResourceAccount": "1"}
    assert allowed([statement], "s3:GetObject", "arn:aws:s3:::b/models/x", ours)
    assert not allowed([statement], "s3:GetObject", "arn:aws:s3:::b/models/x", {})
    assert not allowed([statement], "s3:GetObject", "arn:aws:s3:::b/other/x", ours)
    assert not allowed([statement, {**statement, "Effect": "Deny"}], "s3:GetObject", "arn:aws:s3:::b/models/x", ours)
