"""Each error that AWS answers, over the wire: named, with a remedy, and tried again only where time mends it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.aws_refusals import (
    ROWS,
    AccessDenied,
    ClockWrong,
    KeyDenied,
    NoCredentials,
    NotReadyYet,
    QuotaUsedUp,
    WrongRegion,
)
from tasks.adapters.ledger import Ledger
from tasks.adapters.model_upload import upload
from tasks.adapters.protection import Protection, check_region
from tasks.adapters.sagemaker_make import Maker
from tasks.adapters.sagemaker_requests import blueprint
from tasks.adapters.sagemaker_trials import trial_config
from tasks.errors import RefusedRequest, SlimlineError
from tasks.retrying import is_transient
from tests.adapters.packages import AWS_PLAN, ROLE, on_aws, package
from tests.local.stack import Service, variant

DOCS = Path(__file__).resolve().parents[2] / "docs/aws.md"
Fault = Callable[..., None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("refusals"), "--speed", "60")
    yield running
    running.stop()


@pytest.fixture
def aws(service: Service) -> Connection:
    return Connection("us-east-1", service.url)


@pytest.fixture
def fault(service: Service) -> Iterator[Fault]:
    url = f"{service.url}/_slimline/faults"

    def add(kind: str = "refusal", **more: Any) -> None:
        answer = requests.post(url, json={"kind": kind, **more}, timeout=10)
        assert answer.status_code == 201, answer.text

    yield add
    requests.delete(url, timeout=10)


CASES = [
    ("ExpiredTokenException", "The security token included in the request is expired", NoCredentials),
    ("UnrecognizedClientException", "The security token included in the request is invalid.", NoCredentials),
    ("InvalidSignatureException", "The request signature we calculated does not match", NoCredentials),
    ("InvalidSignatureException", "Signature expired: 20261127T070000Z is now earlier than", ClockWrong),
    ("InvalidSignatureException", "Signature not yet current: 20261127T080000Z is still later than", ClockWrong),
    ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", ClockWrong),
    ("AccessDeniedException", "User: arn:aws:sts::1:assumed-role/x is not authorized to perform it", AccessDenied),
    ("AccessDeniedException", "The ciphertext refers to a key: kms:GenerateDataKey on resource", KeyDenied),
    ("KMS.DisabledException", "arn:aws:kms:us-east-1:111111111111:key/x is disabled.", KeyDenied),
    ("ResourceLimitExceeded", "The account-level service limit 'ml.g6e.xlarge for endpoint usage' is 0", QuotaUsedUp),
    ("LimitExceededFault", "5000 alarms", QuotaUsedUp),
    ("ValidationException", "Could not assume role arn:aws:iam::1:role/x. Please ensure that the role", NotReadyYet),
    ("ValidationException", "Could not find model data at s3://b/k. Please ensure that the role", NotReadyYet),
    ("ValidationException", "Requested image is in a different region", WrongRegion),
    ("OptInRequired", "The AWS Access Key Id needs a subscription for the service", WrongRegion),
    ("IllegalLocationConstraintException", "The unspecified location constraint is incompatible", WrongRegion),
]


@pytest.mark.parametrize(("code", "message", "error"), CASES, ids=lambda value: str(value)[:40])
def test_an_answer_has_a_name_and_a_remedy(
    aws: Connection, fault: Fault, code: str, message: str, error: type[SlimlineError]
) -> None:
    fault(operation="ListEndpoints", code=code, message=message)
    with pytest.raises(error) as caught:
        aws.call("sagemaker", "ListEndpoints")
    assert type(caught.value) is error
    assert message in str(caught.value) and caught.value.remedy and "{action}" not in str(caught.value)
    assert is_transient(caught.value) == (error is NotReadyYet)


def test_every_row_of_the_table_is_tried_over_the_wire() -> None:
    for row in ROWS:
        assert any(row.fits(code, message) for code, message, _ in [*CASES, ("PermanentRedirect", "", None)]), row


def test_the_documentation_names_every_code() -> None:
    text = DOCS.read_text()
    for row in ROWS:
        lines = [line for line in text.splitlines() if line.startswith("|") and f"`{row.error.__name__}`" in line]
        assert row.codes <= {code for line in lines for code in re.findall(r"`([\w.]+)`", line)}, row


def test_throttling_is_tried_again_and_stays_botocores_own_when_it_lasts(aws: Connection, fault: Fault) -> None:
    fault("throttling", operation="ListEndpoints", times=2)
    assert aws.call("sagemaker", "ListEndpoints")["Endpoints"] == []
    fault("throttling", operation="ListEndpoints")
    with pytest.raises(ClientError) as caught:
        aws.client("sagemaker", retry=False).list_endpoints()
    assert is_transient(caught.value)


def test_a_list_is_read_to_its_last_page(aws: Connection, service: Service) -> None:
    plain = service.client("sagemaker")
    model = {"Image": "111111111111.dkr.ecr.us-east-1.amazonaws.com/echo:1"}
    for number in range(5):
        plain.create_model(ModelName=f"page-{number}", PrimaryContainer=model, ExecutionRoleArn=ROLE)
        plain.create_endpoint_config(
            EndpointConfigName=f"page-{number}", ProductionVariants=[variant("main", f"page-{number}")]
        )
    found = aws.pages("sagemaker", "ListEndpointConfigs", "EndpointConfigs", MaxResults=2, NameContains="page-")
    assert sorted(each["EndpointConfigName"] for each in found) == [f"page-{number}" for number in range(5)]


@pytest.fixture
def maker(aws: Connection, tmp_path: Path) -> Maker:
    return Maker(aws, Ledger(tmp_path / "ledger.jsonl", aws.place, ""))


def test_a_role_that_iam_is_still_spreading_is_waited_for(
    maker: Maker, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.adapters.sagemaker_make.SETTLING", (0.05, 0.05))
    refusal = {"code": "ValidationException", "message": f"Could not assume role {ROLE}. Please ensure it exists"}
    made = blueprint(package(), AWS_PLAN, ROLE, {})
    fault(operation="CreateModel", times=2, **refusal)
    maker.fleet(made)
    assert maker._exists("DescribeModel", ModelName=made.name)
    other = blueprint(package("2"), AWS_PLAN, ROLE, {})
    fault(operation="CreateModel", **refusal)
    with pytest.raises(NotReadyYet, match="execution-role-trust"):
        maker.fleet(other)


def test_a_config_made_a_moment_ago_is_asked_for_again_and_one_that_is_not_there_is_not(
    maker: Maker, aws: Connection, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.adapters.sagemaker_make.SETTLING", (0.05, 0.05))
    made = blueprint(package("3"), AWS_PLAN, ROLE, {})
    maker.fleet(made)
    unknown = f'Could not find endpoint configuration "arn:aws:sagemaker:us-east-1:1:endpoint-config/{made.name}".'
    fault(operation="CreateEndpoint", times=2, code="ValidationException", message=unknown)
    request = {"EndpointName": "late", "EndpointConfigName": made.name}
    maker.ask("CreateEndpoint", request, lambda: False)
    assert aws.call("sagemaker", "DescribeEndpoint", EndpointName="late")["EndpointConfigName"] == made.name
    tries: list[int] = []
    request["EndpointName"] = "later"
    with pytest.raises(ClientError, match="absent"):
        maker.ask("CreateEndpoint", {**request, "EndpointConfigName": "absent"}, lambda: bool(tries.append(1)))
    assert tries == [1], "nobody has made it, so it is not waited for"


class _Elsewhere(BaseHTTPRequestHandler):
    """S3 as it answers for a bucket of eu-west-1, and for uploads whose token has expired."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(301, "") if self.path.startswith("/far") else self._answer(404, "")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(400, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def elsewhere(credentials: None) -> Iterator[Connection]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Connection("us-east-1", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_bucket_of_another_region_is_refused(elsewhere: Connection, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WrongRegion, match="another region"):
        upload(elsewhere, "far", tmp_path, "0" * 64)


def test_a_token_that_expires_during_an_upload_has_a_name(elsewhere: Connection, tmp_path: Path) -> None:
    from tasks.adapters.sagemaker_errors import named_errors

    (tmp_path / "weights").write_text("0")
    with pytest.raises(NoCredentials, match="expired"), named_errors("s3:PutObject"):
        elsewhere.s3.upload_file(str(tmp_path / "weights"), "near", "models/x")


@pytest.mark.parametrize(
    "value",
    ["arn:aws:kms:eu-west-1:111111111111:key/x", "111111111111.dkr.ecr.eu-west-1.amazonaws.com/slimline-inference:1"],
)
def test_what_lies_in_another_region_is_refused_before_anything_is_made(value: str) -> None:
    with pytest.raises(WrongRegion, match="AWS_REGION=eu-west-1"):
        check_region("us-east-1", {"it": value})
    check_region("eu-west-1", {"it": value, "a role": ROLE, "a key's id": "mrk-1234"})


def test_an_image_of_another_region_is_refused_by_the_adapter(tmp_path: Path) -> None:
    image = "111111111111.dkr.ecr.eu-west-1.amazonaws.com/slimline-inference:0.1.0"
    with pytest.raises(WrongRegion, match="the image"):
        on_aws(tmp_path).checks.prepared(package(image=image), AWS_PLAN)


KEY = "arn:aws:kms:us-east-1:111111111111:key/0a1b2c3d"


def test_a_kms_key_and_a_vpc_are_in_every_request_that_can_hold_them() -> None:
    protection = Protection(KEY, ("subnet-1", "subnet-2"), ("sg-1",))
    plain = blueprint(package(), AWS_PLAN, ROLE, {})
    for instance, encrypted in (("ml.c7i.xlarge", True), ("ml.g6e.xlarge", False), ("ml.m5d.large", False)):
        plan = AWS_PLAN.model_copy(update={"instance_type": instance, "mode": "SHADOW"})
        made = blueprint(package(), plan, ROLE, {}, protection=protection)
        assert made.name != plain.name
        assert made.model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
        assert ("KmsKeyId" in made.config) == encrypted, "instances with storage of their own refuse a key"
        trial = trial_config(made, made.config["ProductionVariants"][0], "old", 1, plan, "bucket", protection)
        assert ("KmsKeyId" in trial) == encrypted
        assert trial["DataCaptureConfig"]["KmsKeyId"] == KEY


def test_half_a_vpc_is_refused() -> None:
    with pytest.raises(RefusedRequest, match="subnets and security groups"):
        Protection(subnets=("subnet-1",))


def test_uploads_are_encrypted_with_the_key(aws: Connection, service: Service, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    upload(aws, "encrypted", tmp_path, "1" * 64, Protection(KEY))
    s3 = service.client("s3")
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket="encrypted")["Contents"]]
    assert len(keys) == 2
    for key in keys:
        head = s3.head_object(Bucket="encrypted", Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", KEY), json.dumps(head, default=str)
