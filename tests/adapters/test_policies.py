"""The IAM policies that a person applies allow what the code does, and nothing else.

A new call of AWS fails ``test_every_call_is_allowed`` with the statement to add, and with the file to add it to. Calls
beyond a release (autoscaling, batch, monitoring, notifications) go to ``operations-policy.json``, which is attached
beside the first: a managed policy holds 6,144 characters.
"""

from __future__ import annotations

import ast
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.model import OperationModel
from cfnlint.api import lint_all

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.sagemaker_errors import AccessDenied
from tasks.adapters.sagemaker_limits import service_model
from tasks.following import wait_until_serving
from tests.adapters.iam import AWS, BESIDE, actions_of, allowed, context_of, filled, resources_of, statement_for
from tests.adapters.releasing import SPEED, Desk, plan_of, story
from tests.local.stack import IMAGE, ROLE, Service, variant

ROOT = Path(__file__).resolve().parents[2]
# Scripts of engine environments run in a process of their own, which reads public data with the caller's credentials.
SCRIPTS = ROOT / "tasks/adapters/engine_scripts"
SOURCES = [
    path
    for path in (*sorted((ROOT / "tasks").rglob("*.py")), *sorted((ROOT / "deployments").glob("*.py")))
    if SCRIPTS not in path.parents
]
# Which policies are for the calls of a file; the first is where a new call is asked to go.
RELEASE = ("release-role-policy.json", "operations-policy.json")
POLICIES_OF = {
    "tasks/adapters/aws_account.py": ("doctor-policy.json",),
    "tasks/adapters/aws_resources.py": ("doctor-policy.json",),
}
EMBEDDED_ONLY = {("s3", "CreateBucket")}
# Not made by our code: the identity of the machine, SageMaker itself, and the containers.
BY_OTHERS = {
    "worker-role-policy.json": {"sts:AssumeRole"},  # botocore's, for a profile with role_arn
}
# Methods of boto3 that make several requests, and the operation that stands for them.
TRANSFERS = {"upload_file": "PutObject", "upload_fileobj": "PutObject", "download_file": "GetObject"}

Call = tuple[str, str]  # service and operation, as boto3 has them


def services() -> set[str]:
    """What ``aws_connection.Service`` names."""
    tree = ast.parse((ROOT / "tasks/adapters/aws_connection.py").read_text())
    literal = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "Service"
    )
    return {node.value for node in ast.walk(literal) if isinstance(node, ast.Constant)}


def calls_in(path: Path) -> set[Call]:
    """Every operation that stands in the source as an argument of a call: after its service, or alone where one service
    has it; SageMaker's then, where several have.
    """
    operations = {name: service_model(name).operation_names for name in sorted(services())}
    found: set[Call] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        service = texts[0] if texts and texts[0] in operations else None
        for text in texts:
            has = [name for name, names in operations.items() if text in names]
            if service in has:
                found.add((service, text))
            elif has and service is None:
                found.add(("sagemaker" if "sagemaker" in has else has[0], text))
        if isinstance(node.func, ast.Attribute) and node.func.attr in TRANSFERS:
            found.add(("s3", TRANSFERS[node.func.attr]))
    return found - EMBEDDED_ONLY


def calls() -> dict[tuple[str, ...], dict[Call, list[str]]]:
    """By policies: each call, and the files that make it."""
    found: dict[tuple[str, ...], dict[Call, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for call in calls_in(path):
            found[POLICIES_OF.get(name, RELEASE)][call].append(name)
    return found


def needed(made: dict[Call, list[str]]) -> dict[str, list[str]]:
    """Each IAM action, and the files that need it."""
    found: dict[str, list[str]] = defaultdict(list)
    for call, files in made.items():
        for action in actions_of(*call):
            for each in (action, *BESIDE.get(action, ())):
                found[each] += files
    return found


def statements(*policies: str) -> list[dict[str, Any]]:
    there = [policy for policy in policies if (AWS / policy).exists()]
    return [statement for policy in there for statement in json.loads(filled(policy))["Statement"]]


def actions(*policies: str) -> set[str]:
    return {action for statement in statements(*policies) for action in statement["Action"]}


@pytest.mark.parametrize("policies", [RELEASE, ("doctor-policy.json",)], ids=lambda value: value[0])
def test_every_call_is_allowed_and_nothing_else_is(policies: tuple[str, ...]) -> None:
    need = needed(calls()[policies])
    if missing := set(need) - actions(*policies):
        where = {action: sorted(set(need[action])) for action in sorted(missing)}
        pytest.fail(
            f"called and not allowed: {json.dumps(where, indent=2)}\nadd to deployments/aws/{policies[0]}"
            f"{' (or, beyond a release, to ' + policies[1] + ')' if policies[1:] else ''}, with its resources and "
            f"conditions:\n{statement_for(missing)}\n"
            f"(where IAM has another name for a call, tests/adapters/iam.py: ACTIONS)"
        )
    assert actions(*policies) - set(need) == set(), "allowed, and nothing calls it: take it out"


def test_the_finder_sees_the_calls() -> None:
    found = calls()
    release, looks = found[RELEASE], found["doctor-policy.json",]
    assert {("sagemaker", "CreateModel"), ("sagemaker-runtime", "InvokeEndpoint"), ("s3", "PutObject")} <= set(release)
    assert ("cloudwatch", "PutMetricAlarm") in release and ("iam", "SimulatePrincipalPolicy") in looks


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_aws_is_called_through_the_connection_only(path: Path) -> None:
    """Else the finder above would not see it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner.startswith("boto3") or owner.endswith("_session"):
                assert path.name == "aws_connection.py" or owner == "boto3.session", f"{path.name}: {owner}.{name}"
            if owner.endswith((".s3", ".client")):
                assert name in TRANSFERS, f"{path.name}: {owner}.{name} is no transfer; use Connection.call"


def test_no_policy_uses_wildcard_actions_or_is_too_long() -> None:
    for path in AWS.glob("*-policy.json"):
        if path.name in ("bucket-policy.json", "kms-key-policy.json"):  # on resources: a Deny of all, the account's own
            continue
        assert not {action for action in actions(path.name) if "*" in action}, path.name
        characters = len("".join(path.read_text().split()))
        assert characters <= 6144, f"{path.name} has {characters}: move statements to operations-policy.json"


@pytest.mark.parametrize(("policy", "made"), BY_OTHERS.items())
def test_the_other_identities_may_do_one_thing(policy: str, made: set[str]) -> None:
    assert actions(policy) == made


def test_every_statement_is_bound_to_the_account_and_the_region() -> None:
    """By its resources, or where an action has none, by a condition."""
    free = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}  # neither knows a region; both ask for an account
    for path in AWS.glob("*-policy.json"):
        for statement in json.loads(path.read_text())["Statement"]:
            if path.name in ("bucket-policy.json", "kms-key-policy.json") or set(statement["Action"]) <= free:
                continue
            if all(action.startswith("ec2:Describe") for action in statement["Action"]):
                continue  # they have no resources, and SageMaker makes them
            text = json.dumps([statement["Resource"], statement.get("Condition", {})])
            assert "ACCOUNT" in text or "REGION" in text, (path.name, statement["Sid"])


IAM_FILES = sorted(AWS.glob("*-policy.json")) + sorted(AWS.glob("*-trust.json"))


@pytest.mark.parametrize("path", IAM_FILES, ids=lambda path: path.name)
def test_cfn_lint_knows_every_action_resource_and_condition(path: Path) -> None:
    """Its tables are AWS's own (service authorization reference): actions exist, resources are those they act on."""
    assert findings_of(path, json.loads(filled(path.name))) == []


def test_cfn_lint_sees_a_wrong_action_and_a_wrong_resource() -> None:
    path = AWS / "worker-role-policy.json"
    for action, resource in (("sts:AssumeRoles", "*"), ("sagemaker:CreateModel", "arn:aws:s3:::bucket")):
        statement = {"Effect": "Allow", "Action": [action], "Resource": resource}
        assert findings_of(path, {"Version": "2012-10-17", "Statement": [statement]})


def findings_of(path: Path, document: dict[str, Any]) -> list[str]:
    """What cfn-lint says to the document as what the file is."""
    kinds = {
        "bucket-policy.json": ("AWS::S3::BucketPolicy", {"Bucket": "slimline-test", "PolicyDocument": document}),
        "kms-key-policy.json": ("AWS::KMS::Key", {"EnableKeyRotation": True, "KeyPolicy": document}),
    }
    if path.name.endswith("-trust.json"):
        kind, properties = "AWS::IAM::Role", {"AssumeRolePolicyDocument": document}
    else:
        kind, properties = kinds.get(path.name, ("AWS::IAM::ManagedPolicy", {"PolicyDocument": document}))
    template = {"Resources": {"It": {"Type": kind, "Properties": properties}}}
    if kind == "AWS::KMS::Key":
        template["Resources"]["It"] |= {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
    found = [f"{match.rule.id} {match.message}" for match in lint_all(json.dumps(template))]
    # About templates, not about policies: partitions and regions are written out, and there is no metadata.
    return [each for each in found if not each.startswith(("W3045", "I3042", "I4010"))]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, credentials: None) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("policies")
    service = Service(folder / "service", "--speed", str(SPEED))
    yield Desk(service.url, folder)
    service.stop()


@pytest.fixture(scope="module")
def recorded() -> set[Call]:
    """What the releases below have really called."""
    return set()


GUARDED: list[SageMaker] = []
LOCK = threading.Lock()
# Actions that the releases below do not happen to need, with what needs them.
RARE: set[str] = set()


def under_the_release_role(desk: Desk, recorded: set[Call], **environment: str) -> SageMaker:
    """Every call of a desk's cloud is recorded, and refused, as AWS would, where the release role's policies do not
    allow it.
    """
    cloud = desk.cloud(**environment)
    if cloud in GUARDED:
        return cloud
    GUARDED.append(cloud)
    policy = statements(*RELEASE)

    def check(params: dict[str, Any], model: OperationModel, **more: Any) -> None:
        service = model.service_model.service_name
        if (service, model.name) in EMBEDDED_ONLY:
            return
        with LOCK:
            recorded.add((service, model.name))
        for name in actions_of(service, model.name):
            for resource in resources_of(service, params):
                if not allowed(policy, name, resource, context_of(service, params)):
                    refusal = {"Code": "AccessDeniedException", "Message": f"{name} on {resource}"}
                    raise ClientError({"Error": refusal}, model.name)

    assert not cloud._aws._clients, "each client takes the session's events with it when it is made"
    cloud._aws._session.events.register("provide-client-params", check)
    return cloud


@pytest.mark.parametrize("mode", ["CANARY", "SHADOW", "WEIGHTS"])
def test_a_release_needs_no_more_than_the_release_role_has(desk: Desk, recorded: set[Call], mode: Any) -> None:
    """With the conditions: tags, prefixes, region. A restored one first, then a promoted one."""
    plan = plan_of(f"slimline-{mode.lower()}", mode)
    cloud = under_the_release_role(desk, recorded)
    under_the_release_role(desk, recorded, ECHO_ERROR_SHARE="0.5")
    desk.serve(plan)
    bad = desk.release(plan, "2", ECHO_ERROR_SHARE="0.5")
    assert bad.phase == "restored", story(bad)
    good = desk.release(plan, "3")
    assert good.phase == "promoted", story(good)
    cloud.probe(plan.endpoint, "hello")
    cloud.overview()
    cloud.delete_endpoint(plan.endpoint, poll_seconds=0.1)
    cloud.sweep(plan.endpoint)


def test_what_releases_call_is_what_the_finder_finds(recorded: set[Call]) -> None:
    """Both ways: no call escapes the finder, and the policy allows nothing that no release was seen to do."""
    assert recorded, "runs after the releases above"
    found = set(calls()[RELEASE])
    assert recorded <= found
    released = actions(RELEASE[0])
    seen = {action for call in recorded for action in actions_of(*call)}
    assert {each for each in released if each not in seen} <= {*set().union(*BESIDE.values()), *RARE}


def test_the_release_role_may_look_and_sweep_beside_other_peoples_endpoints(desk: Desk, recorded: set[Call]) -> None:
    """Theirs are described, for what they hold is not to be deleted; their tags the policy does not let us read."""
    plain = boto3.client("sagemaker", endpoint_url=desk.url, region_name="us-east-1")
    model = {"ModelName": "theirs", "PrimaryContainer": {"Image": IMAGE}, "ExecutionRoleArn": ROLE}
    plain.create_model(**model)
    plain.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant("AllTraffic", "theirs")])
    plain.create_endpoint(EndpointName="theirs", EndpointConfigName="theirs")
    cloud = under_the_release_role(desk, recorded)
    plan = plan_of("slimline-ours", "ALL_AT_ONCE")
    desk.serve(plan)
    wait_until_serving(desk.cloud(SLIMLINE_TEST="unguarded"), "theirs")

    with pytest.raises(AccessDenied):
        cloud.history("theirs")
    ours, theirs = cloud.overview()
    assert (ours.name, ours.variants[0].model, ours.variants[0].version) == ("slimline-ours", "tiny", "1")
    assert (theirs.name, theirs.variants[0].config, theirs.variants[0].version) == ("theirs", "theirs", "")
    assert theirs.previous_config is None and not theirs.open_move
    assert cloud.sweep() == []
    assert {each["EndpointName"] for each in plain.list_endpoints()["Endpoints"]} == {"slimline-ours", "theirs"}
