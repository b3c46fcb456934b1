"""The IAM policy that a person applies allows what the adapter does, and nothing else."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.model import OperationModel

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import AccessDenied
from tasks.adapters.sagemaker_limits import service_model
from tasks.following import wait_until_serving
from tests.adapters.releasing import SPEED, Desk, plan_of
from tests.local.stack import IMAGE, ROLE, Service, variant

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = [
    *sorted((ROOT / "tasks/adapters").glob("sagemaker*.py")),
    ROOT / "tasks/adapters/aws_connection.py",
    ROOT / "tasks/adapters/model_upload.py",
    ROOT / "tasks/adapters/hub_models.py",
    ROOT / "tasks/adapters/captures.py",
    ROOT / "tasks/adapters/captured_lines.py",
]
# What one call of boto3 is to IAM, where the names differ.
S3_ACTIONS = {
    "HeadBucket": {"ListBucket"},
    "HeadObject": {"GetObject"},
    "ListObjectsV2": {"ListBucket"},
    "ListMultipartUploads": {"ListBucketMultipartUploads"},
    "PutObject": {"PutObject", "AbortMultipartUpload"},  # upload_file sends large files in parts
}
EMBEDDED_ONLY = {("s3", "CreateBucket")}
IMPLIED = {
    "iam:PassRole",  # CreateModel hands over the execution role
    "cloudwatch:TagResource",  # PutMetricAlarm carries tags
    "iam:CreateServiceLinkedRole",  # the first RegisterScalableTarget of an account makes Application Auto Scaling's
    "s3:ListBucket",  # HeadObject of an absent key answers 404 only with it, 403 without
}


def calls() -> set[tuple[str, str]]:
    """(service, operation) of every operation's name that stands in the adapter's source as an argument of a call."""
    operations = {
        operation: service.removesuffix("-runtime")
        for service in ("s3", "cloudwatch", "sagemaker", "sagemaker-runtime", "application-autoscaling")
        for operation in service_model(service).operation_names
    }
    found = set()
    for path in ADAPTER:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and argument.value in operations:
                        found.add((operations[argument.value], argument.value))
    return found


def actions(policy: str) -> set[str]:
    document: dict[str, Any] = json.loads((ROOT / "deployments/aws" / policy).read_text())
    return {action for statement in document["Statement"] for action in statement["Action"]}


def test_the_release_role_may_do_exactly_what_the_adapter_calls() -> None:
    needed = {
        f"{service}:{action}"
        for service, operation in calls() - EMBEDDED_ONLY
        for action in (S3_ACTIONS.get(operation, {operation}) if service == "s3" else {operation})
    }
    assert needed | IMPLIED == actions("release-role-policy.json")


def test_the_finder_sees_the_calls() -> None:
    assert {("sagemaker", "CreateModel"), ("sagemaker", "InvokeEndpoint"), ("cloudwatch", "PutMetricAlarm")} <= calls()


def test_no_policy_uses_wildcard_actions() -> None:
    for policy in ("release-role-policy.json", "execution-role-policy.json"):
        assert not {action for action in actions(policy) if "*" in action}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("policies")
    service = Service(folder / "service", "--speed", str(SPEED))
    yield Desk(service.url, folder)
    service.stop()


def allowed(policy: str, action: str, resource: str) -> bool:
    """As IAM decides it, without conditions: the policy's placeholders are the embedded stack's account and region."""
    text = (ROOT / "deployments/aws" / policy).read_text()
    for placeholder, value in (("REGION", "us-east-1"), ("ACCOUNT", "123456789012"), ("BUCKET", "slimline-test")):
        text = text.replace(placeholder, value)
    for statement in json.loads(text)["Statement"]:
        resources = statement["Resource"]
        patterns = [resources] if isinstance(resources, str) else resources
        if action in statement["Action"] and any(fnmatchcase(resource, pattern) for pattern in patterns):
            return True
    return False


def resources_of(service: str, params: dict[str, Any]) -> list[str]:
    """The ARNs that a call is about; ``*`` where it is about none."""
    place = f"arn:aws:{service}:us-east-1:123456789012"
    kinds = {"EndpointName": "endpoint", "EndpointConfigName": "endpoint-config", "ModelName": "model"}
    kinds |= {"TransformJobName": "transform-job"}
    found = [f"{place}:{kind}/{params[name]}" for name, kind in kinds.items() if name in params]
    found += [f"{place}:alarm:{name}" for name in (*params.get("AlarmNames", ()), params.get("AlarmName")) if name]
    boards = (*params.get("DashboardNames", ()), params.get("DashboardName"))
    found += [f"arn:aws:cloudwatch::123456789012:dashboard/{name}" for name in boards if name]
    found += [params["ResourceArn"]] if "ResourceArn" in params else []
    if "Bucket" in params:
        found.append("/".join(["arn:aws:s3:::" + params["Bucket"], *([params["Key"]] if "Key" in params else [])]))
    return found or ["*"]


def under_the_release_role(cloud: SageMaker) -> SageMaker:
    """Every call of ``cloud`` is refused, as AWS would, where the release role's policy does not allow it."""

    def check(params: dict[str, Any], model: OperationModel, **more: Any) -> None:
        service = model.service_model.service_name.removesuffix("-runtime")
        if (service, model.name) in EMBEDDED_ONLY:
            return
        for name in S3_ACTIONS.get(model.name, {model.name}) if service == "s3" else {model.name}:
            for resource in resources_of(service, params):
                if not allowed("release-role-policy.json", f"{service}:{name}", resource):
                    refusal = {"Code": "AccessDeniedException", "Message": f"{service}:{name} on {resource}"}
                    raise ClientError({"Error": refusal}, model.name)

    for client in cloud._aws._clients.values():
        client.meta.events.register("provide-client-params", check)
    return cloud


def test_the_release_role_may_look_and_sweep_beside_other_peoples_endpoints(desk: Desk) -> None:
    """Theirs are described, for what they hold is not to be deleted; their tags the policy does not let us read."""
    plain = boto3.client("sagemaker", endpoint_url=desk.url, region_name="us-east-1")
    model = {"ModelName": "theirs", "PrimaryContainer": {"Image": IMAGE}, "ExecutionRoleArn": ROLE}
    plain.create_model(**model)
    plain.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant("AllTraffic", "theirs")])
    plain.create_endpoint(EndpointName="theirs", EndpointConfigName="theirs")
    cloud = under_the_release_role(desk.cloud())
    plan = plan_of("slimline-ours", "ALL_AT_ONCE")
    desk.serve(plan)
    wait_until_serving(desk.cloud(SLIMLINE_TEST="unguarded"), "theirs")

    with pytest.raises(AccessDenied):
        cloud.history("theirs")
    ours, theirs = cloud.overview()
    assert (ours.name, ours.variants[0].model, ours.variants[0].version) == ("slimline-ours", "tiny", "1")
    assert (theirs.name, theirs.variants[0].config, theirs.variants[0].version) == ("theirs", "theirs", "")
    assert theirs.previous_config is None and not theirs.open_move
    cloud.guard(plan)
    assert cloud.sweep() == []
    assert {each["EndpointName"] for each in plain.list_endpoints()["Endpoints"]} == {"slimline-ours", "theirs"}
    cloud.monitoring.remove("slimline-ours")
