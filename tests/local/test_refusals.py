"""What the service refuses, in AWS's words where they are known; and what it says it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from tests.local.stack import ROLE, Deck, canary, policy, rolling, variant


@pytest.fixture(scope="module")
def serving(deck: Deck) -> tuple[str, str]:
    """An endpoint of two instances, and another configuration that would fit it."""
    return deck.endpoint(deck.config(count=2), keep=True), deck.config(count=2)


def refused(call: Callable[[], Any], message: str, code: str = "ValidationException", status: int = 400) -> None:
    with pytest.raises(ClientError, match=message) as error:
        call()
    assert error.value.response["Error"]["Code"] == code
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def alarms(*names: str) -> dict[str, Any]:
    return {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in names]}}


ONE = {"Type": "INSTANCE_COUNT", "Value": 1}
POLICIES = [
    (canary(60), "at most 50 percent"),
    (policy({"Type": "CANARY", "WaitIntervalInSeconds": 60}), "CanarySize must be specified"),
    (canary(50, wait=99_999), "waitIntervalInSeconds' failed to satisfy constraint: Member must have value less than"),
    (policy({"Type": "BOGUS", "WaitIntervalInSeconds": 60}), r"enum value set: \[ALL_AT_ONCE, CANARY, LINEAR\]"),
    (policy({"Type": "LINEAR", "WaitIntervalInSeconds": 60, "CanarySize": ONE}), "LinearStepSize must be specified"),
    (canary(50) | alarms(*[f"alarm-{n}" for n in range(11)]), "length less than or equal to 10"),
    (canary(50) | alarms("no-such-alarm"), "no-such-alarm"),
    (rolling(60, "CAPACITY_PERCENT"), "MaximumBatchSize must be between 5 and 50 percent"),
    (rolling(4, "CAPACITY_PERCENT"), "MaximumBatchSize must be between 5 and 50 percent"),
    (rolling(2), "2 of 2 instance"),
    (rolling(1, back=101, back_kind="CAPACITY_PERCENT"), "at most 100 percent, not 101"),
    (rolling(1, wait=3601), "waitIntervalInSeconds' failed to satisfy constraint: Member must have value less than"),
    (rolling(1, limit=28801), "maximumExecutionTimeoutInSeconds' failed .* less than or equal to 28800"),
    (rolling(1) | canary(50), "Only one of BlueGreenUpdatePolicy and RollingUpdatePolicy"),
    (alarms("no-such-alarm"), "Exactly one of BlueGreenUpdatePolicy and RollingUpdatePolicy"),
]


@pytest.mark.parametrize(("deployment", "message"), POLICIES)
def test_bad_deployments(deck: Deck, serving: tuple[str, str], deployment: dict[str, Any], message: str) -> None:
    endpoint, config = serving

    def update() -> None:
        deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config, DeploymentConfig=deployment)

    refused(update, message)
    assert deck.describe(endpoint)["EndpointStatus"] == "InService"


def test_a_guarded_update_keeps_the_variant_names(deck: Deck, serving: tuple[str, str]) -> None:
    config = deck.config(variant("renamed", deck.model(), count=2))
    call = {"EndpointName": serving[0], "EndpointConfigName": config, "DeploymentConfig": canary(50)}
    refused(lambda: deck.sagemaker.update_endpoint(**call), "same variant names")


def test_names_are_taken_once(deck: Deck, serving: tuple[str, str]) -> None:
    endpoint, config = serving
    sm = deck.sagemaker
    refused(
        lambda: sm.create_endpoint(EndpointName=endpoint, EndpointConfigName=config),
        'Cannot create already existing endpoint "arn:aws:sagemaker:us-east-1:123456789012:endpoint/',
    )
    variants = [variant("main", deck.model())]
    refused(
        lambda: sm.create_endpoint_config(EndpointConfigName=config, ProductionVariants=variants),
        "Cannot create already existing endpoint configuration",
    )
    container = {"Image": "echo:1"}
    name = variants[0]["ModelName"]
    refused(
        lambda: sm.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE),
        "Cannot create already existing model",
    )


def test_bad_configurations(deck: Deck) -> None:
    model = deck.model()

    def create(*variants: dict[str, Any], name: str = "refused-config", **more: Any) -> Callable[[], Any]:
        return lambda: deck.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=list(variants), **more
        )

    bad_type = variant("main", model) | {"InstanceType": "ml.bogus.xlarge"}
    refused(create(bad_type), r"'ml.bogus.xlarge' at 'productionVariants.1.member.instanceType'.*enum value set")
    refused(create(variant("main", model), name="-bad-"), "regular expression pattern")
    refused(create(variant("main", model), name="x" * 64), "length less than or equal to 63")
    refused(create(variant("a", model), variant("a", model)), "names must be unique")
    refused(create(variant("a", model, weight=0.0)), "weight|Weight")
    refused(create(variant("a", "absent")), 'Could not find model "arn:aws:sagemaker')
    serverless = {
        "VariantName": "a",
        "ModelName": model,
        "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1},
    }
    refused(create(serverless), "ServerlessConfig", "NotImplementedException", 501)
    shadows = {"ShadowProductionVariants": [variant("s", model), variant("t", model)]}
    refused(create(variant("a", model), **shadows), "exactly one production variant and one shadow|max|length")
    assert deck.sagemaker.list_endpoint_configs(NameContains="refused-config")["EndpointConfigs"] == []


def test_what_is_absent_is_named_by_arn(deck: Deck) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012"
    sm = deck.sagemaker
    refused(lambda: sm.describe_endpoint(EndpointName="absent"), f'Could not find endpoint "{arn}:endpoint/absent"')
    refused(lambda: sm.describe_model(ModelName="absent"), f'Could not find model "{arn}:model/absent"')
    refused(
        lambda: sm.describe_endpoint_config(EndpointConfigName="absent"),
        f'Could not find endpoint configuration "{arn}:endpoint-config/absent"',
    )


def test_a_configuration_in_use_can_go_but_then_the_endpoint_cannot_be_updated(deck: Deck) -> None:
    config = deck.config()
    endpoint = deck.endpoint(config)
    deck.sagemaker.delete_endpoint_config(EndpointConfigName=config)
    deck.ask(endpoint)
    call = {"EndpointName": endpoint, "EndpointConfigName": deck.config()}
    refused(lambda: deck.sagemaker.update_endpoint(**call), f"Could not find endpoint configuration .*{config}")


def test_operations_that_are_not_there_say_so(deck: Deck, serving: tuple[str, str]) -> None:
    scaling = deck.service.client("application-autoscaling")
    calls: list[tuple[Callable[[], Any], str]] = [
        (deck.sagemaker.list_training_jobs, "SageMaker.ListTrainingJobs"),
        (lambda: scaling.describe_scalable_targets(ServiceNamespace="sagemaker"), "DescribeScalableTargets"),
        (lambda: deck.cloudwatch.list_dashboards(), "ListDashboards"),
        (lambda: deck.ask(serving[0], TargetModel="m.tar.gz"), "InvokeEndpoint: TargetModel"),
        (lambda: deck.ask(serving[0], InferenceComponentName="c"), "InvokeEndpoint: InferenceComponentName"),
    ]
    for call, name in calls:
        refused(call, name, "NotImplementedException", 501)


def test_other_protocols_of_our_services_never_reach_the_backend(deck: Deck) -> None:
    signed = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/monitoring/aws4_request, SignedHeaders=host, Signature=0"
    kind = {"Authorization": signed, "Content-Type": "application/x-www-form-urlencoded"}
    answer = requests.post(deck.service.url, data="Action=PutMetricData&Version=2010-08-01", headers=kind, timeout=10)
    assert answer.status_code == 501 and "PutMetricData" in answer.text
    path = "/service/GraniteServiceVersion20100801/operation/ListMetrics"
    answer = requests.post(deck.service.url + path, data=b"\xa0", timeout=10)
    assert answer.status_code == 501 and "ListMetrics" in answer.text


def test_bad_alarms(deck: Deck) -> None:
    good = {
        "AlarmName": "refused",
        "Namespace": "n",
        "MetricName": "m",
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanThreshold",
    }

    def put(**change: Any) -> Callable[[], Any]:
        given = {key: value for key, value in (good | change).items() if value is not None}
        return lambda: deck.cloudwatch.put_metric_alarm(**given)

    refused(put(Threshold=None), "Threshold is required", "MissingParameter")
    refused(put(ExtendedStatistic="p99"), "Exactly one", "InvalidParameterCombination")
    refused(put(DatapointsToAlarm=2), "DatapointsToAlarm", "InvalidParameterCombination")
    refused(put(Period=45), "Period", "InvalidParameterValue")
    refused(put(ComparisonOperator="Near"), "enum value set", "ValidationError")
    refused(put(AlarmActions=["arn:aws:sns:us-east-1:123456789012:t"]), "AlarmActions", "NotImplementedException", 501)
    refused(lambda: deck.cloudwatch.delete_alarms(AlarmNames=["refused"]), "Unknown alarm", "ResourceNotFound", 404)
    deck.cloudwatch.put_metric_alarm(**good)
    found = deck.cloudwatch.describe_alarms(AlarmNames=["refused"])["MetricAlarms"][0]
    assert found["StateValue"] == "INSUFFICIENT_DATA"
    deck.cloudwatch.delete_alarms(AlarmNames=["refused"])


def test_lists_are_paged(deck: Deck) -> None:
    container = {"Image": "echo:1"}
    for n in range(12):
        deck.sagemaker.create_model(ModelName=f"paged-{n}", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    first = deck.sagemaker.list_models(NameContains="paged-", SortBy="Name", SortOrder="Ascending")
    assert len(first["Models"]) == 10 and "NextToken" in first
    pages = deck.sagemaker.get_paginator("list_models").paginate(NameContains="paged-", MaxResults=5)
    assert {m["ModelName"] for page in pages for m in page["Models"]} == {f"paged-{n}" for n in range(12)}


@pytest.mark.parametrize(
    ("headers", "path"),
    [({"Host": "rebound.example"}, "/_slimline/info"), ({"Origin": "https://example.com"}, "/_slimline/info")],
)
def test_web_pages_from_elsewhere_are_kept_out(deck: Deck, headers: dict[str, str], path: str) -> None:
    assert requests.get(deck.service.url + path, headers=headers, timeout=10).status_code == 403


@pytest.mark.parametrize("payload", [b"[]", b"{", b'{"ModelName": 5}', b'{"ModelName": "m", "Unheard": 1}'])
def test_malformed_requests_get_an_answer_not_a_crash(deck: Deck, payload: bytes) -> None:
    headers = {"X-Amz-Target": "SageMaker.DescribeModel", "Content-Type": "application/x-amz-json-1.1"}
    answer = requests.post(deck.service.url, data=payload, headers=headers, timeout=10)
    assert answer.status_code in (400, 501)
    assert answer.json()["__type"] in ("SerializationException", "NotImplementedException")


def test_the_pages_say_that_this_is_a_rehearsal(deck: Deck, serving: tuple[str, str]) -> None:
    info = requests.get(f"{deck.service.url}/_slimline/info", timeout=10).json()
    assert (info["service"], info["rehearsal"], info["speed"]) == ("slimline-endpoint-service", True, 60.0)
    assert info["differs"]
    page = requests.get(f"{deck.service.url}/_slimline/", timeout=10)
    assert serving[0] in page.text and "60×" in page.text
    assert requests.get(f"{deck.service.url}/_slimline/health", timeout=10).json() == {"status": "ok"}
