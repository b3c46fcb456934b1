"""Deployments with plain boto3 against the running service: real processes, a clock at 60 times the wall's."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.load import load
from tests.local.stack import Deck, canary, policy, until, variant


def update(deck: Deck, endpoint: str, config: str, deployment: dict[str, Any] | None = None, **more: Any) -> None:
    given = {"DeploymentConfig": deployment} if deployment else {}
    deck.sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config, **given, **more)


def stages(deck: Deck, endpoint: str, ask: bool = True) -> tuple[dict[str, Any], list[tuple[str, str]], list[str]]:
    """Follow a deployment to its end, asking all the while: the endpoint, the stages seen, the errors' codes."""
    seen: list[tuple[str, str]] = []
    errors: list[str] = []
    while True:
        found = deck.describe(endpoint)
        for each in found.get("PendingDeploymentSummary", {}).get("ProductionVariants", []):
            stage = each["VariantStatus"][0]
            if (stage["Status"], stage["StatusMessage"]) not in seen:
                seen.append((stage["Status"], stage["StatusMessage"]))
        if found["EndpointStatus"] != "Updating":
            return found, seen, errors
        if ask:
            try:
                deck.ask(endpoint)
            except ClientError as error:
                errors.append(error.response["Error"]["Code"])


def test_a_canary_promotes(deck: Deck) -> None:
    old = deck.config(count=4)
    endpoint = deck.endpoint(old)
    new = deck.config(count=4)
    deployment = canary(25, wait=240, end=60)
    deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": deck.alarm(endpoint, new)}]}
    update(deck, endpoint, new, deployment)

    baking = until(
        lambda: deck.describe(endpoint),
        lambda seen: "canary capacity of 1 instance(s)" in str(seen.get("PendingDeploymentSummary")),
    )
    pending = baking["PendingDeploymentSummary"]
    assert baking["EndpointConfigName"] == old and pending["EndpointConfigName"] == new
    assert pending["ProductionVariants"][0]["CurrentInstanceCount"] == 4
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        update(deck, endpoint, new)
    fleets = deck.service.fleets(endpoint)
    assert [fleet["weight"] for fleet in fleets["fleets"]] == [0.75, 0.25]

    found, seen, errors = stages(deck, endpoint)
    assert errors == []
    assert (
        "Baking",
        "Baking for 60 seconds (TerminationWaitInSeconds) with traffic enabled on full capacity of 4 instance(s).",
    ) in seen
    assert found["EndpointConfigName"] == new and "PendingDeploymentSummary" not in found
    assert found["LastDeploymentConfig"] == deployment
    after = deck.service.fleets(endpoint)
    assert after["fleets"][0]["config"] == new and after["fleets"][0]["weight"] == 1.0
    assert after["fleets"][0]["requests"] > 0
    assert [gone["config"] for gone in after["retired"]] == [old]
    assert after["retired"][0]["requests"] > 0
    assert all(each["pid"] is None for each in after["retired"][0]["variants"]["main"]["instances"])


def test_a_bad_canary_is_restored_by_an_alarm_on_the_new_fleet(deck: Deck) -> None:
    """12 % errors on a quarter of the traffic: 3 % of all, which an alarm on both fleets at 8 % would let pass."""
    old = deck.config(count=4)
    endpoint = deck.endpoint(old)
    new = deck.config(count=4, ECHO_ERROR_SHARE="0.12")
    alarm = deck.alarm(endpoint, new, threshold=0.08)
    deployment = canary(25, wait=240) | {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}
    update(deck, endpoint, new, deployment)
    found, _, errors = stages(deck, endpoint)
    assert found["EndpointStatus"] == "InService"
    assert found["EndpointConfigName"] == old
    assert "FailureReason" not in found  # a rollback is silent, as on AWS
    assert set(errors) == {"ModelError"}
    assert deck.cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"][0]["StateValue"] == "ALARM"
    seen = deck.service.fleets(endpoint)
    assert seen["retired"][0]["config"] == new and seen["retired"][0]["errors_5xx"] == len(errors)
    assert any(alarm in event["what"] for event in seen["history"])
    for _ in range(20):
        deck.ask(endpoint)


def test_linear_steps_take_whole_instances(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(count=2))
    new = deck.config(count=4)
    step = {"Type": "INSTANCE_COUNT", "Value": 2}
    update(deck, endpoint, new, policy({"Type": "LINEAR", "WaitIntervalInSeconds": 60, "LinearStepSize": step}, end=60))
    found, seen, errors = stages(deck, endpoint)
    baked = [message.partition("enabled on ")[2] for status, message in seen if status == "Baking"]
    assert baked == ["linear step capacity of 2 instance(s).", "full capacity of 4 instance(s)."]
    assert found["EndpointConfigName"] == new and errors == []
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 4


def test_all_at_once_is_what_no_policy_means_and_names_may_change(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config())
    new = deck.config(variant("other", deck.model()))
    update(deck, endpoint, new)
    found, _, errors = stages(deck, endpoint)
    assert found["EndpointConfigName"] == new and errors == []
    assert "LastDeploymentConfig" not in found
    assert deck.ask(endpoint)["InvokedProductionVariant"] == "other"


@pytest.mark.parametrize(
    ("kind", "reason"), [("exit", "it exited with status 3"), ("image", "no runtime for the image")]
)
def test_a_fleet_that_does_not_start_leaves_the_old_one(deck: Deck, kind: str, reason: str) -> None:
    old = deck.config()
    endpoint = deck.endpoint(old)
    bad = deck.model(ECHO_PING="exit") if kind == "exit" else deck.model(image="triton-server:24.09")
    update(deck, endpoint, deck.config(variant("main", bad)))
    found, _, errors = stages(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"], errors) == ("InService", old, [])
    assert any(reason in event["what"] for event in deck.service.fleets(endpoint)["history"])


def test_an_endpoint_that_never_starts_is_failed_and_can_only_be_deleted(deck: Deck) -> None:
    config = deck.config(variant("main", deck.model(image="triton-server:24.09")))
    deck.sagemaker.create_endpoint(EndpointName="never", EndpointConfigName=config)
    found = deck.settled("never")
    assert found["EndpointStatus"] == "Failed"
    assert "This stack has no runtime for the image triton-server:24.09" in found["FailureReason"]
    with pytest.raises(ClientError, match="only operation"):
        update(deck, "never", deck.config())
    deck.sagemaker.delete_endpoint(EndpointName="never")
    deck.sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName="never", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )


def test_retained_properties_and_policy(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(count=2))
    changed = [{"VariantName": "main", "DesiredInstanceCount": 3, "DesiredWeight": 4.0}]
    deck.sagemaker.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=changed)
    assert deck.settled(endpoint)["ProductionVariants"][0]["CurrentInstanceCount"] == 3
    new = deck.config(count=1)
    update(
        deck,
        endpoint,
        new,
        policy({"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}),
        RetainAllVariantProperties=True,
    )
    found = deck.settled(endpoint)["ProductionVariants"][0]
    assert (found["CurrentInstanceCount"], found["CurrentWeight"]) == (3, 4.0)
    update(deck, endpoint, deck.config(count=1), RetainDeploymentConfig=True)
    found = deck.settled(endpoint)
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    assert (
        found["LastDeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "ALL_AT_ONCE"
    )


def test_no_request_is_lost_while_a_good_model_is_promoted(deck: Deck) -> None:
    endpoint = deck.endpoint(deck.config(count=2, ECHO_SECONDS="0.02"))
    new = deck.config(count=2, ECHO_SECONDS="0.02")
    with load(deck, endpoint, threads=4) as asked:
        update(deck, endpoint, new, canary(50, wait=60, end=30))
        found = deck.settled(endpoint)
        time.sleep(0.3)
    assert found["EndpointConfigName"] == new
    assert asked.lost == []
    seen = deck.service.fleets(endpoint)
    assert seen["fleets"][0]["requests"] + seen["retired"][0]["requests"] == len(asked.answered) > 50
