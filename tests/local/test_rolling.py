"""Rolling deployments with plain boto3: batches of real processes, never fewer than before, and the way back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from tests.local.stack import Deck, rolling, until, variant
from tests.local.test_rollouts import update


@pytest.fixture
def alarm(deck: Deck) -> str:
    """An alarm that keeps the state it is given."""
    name = f"a-{uuid.uuid4().hex[:8]}"
    deck.cloudwatch.put_metric_alarm(
        AlarmName=name,
        Namespace="Rehearsal",
        MetricName="Silent",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="ignore",
    )
    return name


@pytest.fixture
def fault(deck: Deck) -> Iterator[Any]:
    """Add faults; they are gone after the test."""
    url = f"{deck.service.url}/_slimline/faults"
    names: list[str] = []

    def add(kind: str, **more: object) -> str:
        answer = requests.post(url, json={"kind": kind, **more}, timeout=10)
        assert answer.status_code == 201, answer.text
        names.append(answer.json()["id"])
        return names[-1]

    yield add
    for name in names:
        requests.delete(f"{url}/{name}", timeout=10)


def sizes(seen: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Instances and traffic by role."""
    return {fleet["role"]: (fleet["instances"], fleet["weight"]) for fleet in seen["fleets"]}


def watched(deck: Deck, endpoint: str) -> tuple[dict[str, Any], list[dict[str, tuple[int, float]]], list[str]]:
    """Follow a deployment to its end, asking all the while: the endpoint, the fleets seen, the messages seen."""
    looks: list[dict[str, tuple[int, float]]] = []
    messages: list[str] = []
    while True:
        found = deck.describe(endpoint)
        for each in found.get("PendingDeploymentSummary", {}).get("ProductionVariants", []):
            stage = each["VariantStatus"][0]
            if (text := f"{stage['Status']}: {stage['StatusMessage']}") not in messages:
                messages.append(text)
        if found["EndpointStatus"] != "Updating":
            return found, looks, messages
        if (look := sizes(deck.service.fleets(endpoint))) not in looks:
            looks.append(look)
        assert deck.ask(endpoint)["Body"].read()  # no request is lost


def test_batches_take_over_and_the_endpoint_never_has_fewer_instances(deck: Deck) -> None:
    old, new = deck.config(count=4), deck.config(count=4)
    endpoint = deck.endpoint(old)
    deployment = rolling(50, "CAPACITY_PERCENT", wait=120, limit=3600)
    deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": deck.alarm(endpoint, new)}]}
    update(deck, endpoint, new, deployment)
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        update(deck, endpoint, new)
    found, looks, messages = watched(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", new)
    assert found["LastDeploymentConfig"] == deployment and "PendingDeploymentSummary" not in found
    assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 4
    assert all(4 <= sum(count for count, _ in look.values()) <= 6 for look in looks), looks
    assert {"serving": (4, 0.5), "new": (2, 0.5)} in looks  # the first batch bakes beside the whole old fleet
    assert {"serving": (2, 0.0), "new": (4, 1.0)} in looks
    assert (
        "Baking: Baking for 120 seconds (WaitIntervalInSeconds) with traffic enabled on 2 of 4 instance(s)." in messages
    )
    seen = deck.service.fleets(endpoint)
    assert sizes(seen) == {"serving": (4, 1.0)}
    assert [gone["config"] for gone in seen["retired"]] == [old] and seen["retired"][0]["requests"] > 0


def test_an_alarm_in_a_later_bake_brings_the_old_fleet_back_in_batches(deck: Deck, alarm: str) -> None:
    old, new = deck.config(count=3), deck.config(count=3)
    endpoint = deck.endpoint(old)
    watch = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]}}
    update(deck, endpoint, new, rolling(1, wait=120, back=1) | watch)
    until(lambda: sizes(deck.service.fleets(endpoint)), lambda seen: seen.get("new", (0, 0))[0] == 2)
    until(lambda: sizes(deck.service.fleets(endpoint)), lambda seen: seen["new"][1] > 0.6)  # one old one has ended
    assert deck.service.fleets(endpoint)["fleets"][0]["instances"] == 2
    deck.cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason="told to")
    found, looks, messages = watched(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", old)
    assert "FailureReason" not in found
    assert all(sum(count for count, _ in look.values()) >= 3 for look in looks), looks
    assert any(text.startswith("Updating: Rolling back: 2 of 3") for text in messages), messages
    seen = deck.service.fleets(endpoint)
    assert sizes(seen) == {"serving": (3, 1.0)}
    assert any(alarm in event["what"] for event in seen["history"])


def test_a_batch_that_does_not_start_and_a_silent_rollback_go_back(deck: Deck, fault: Any) -> None:
    old = deck.config(count=2)
    endpoint = deck.endpoint(old)
    update(deck, endpoint, deck.config(count=2, ECHO_PING="exit"), rolling(1, wait=0))
    found, _, _ = watched(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", old)
    new = deck.config(count=2)
    fault("silent_rollback", endpoint=endpoint)
    update(deck, endpoint, new, rolling(1, wait=0))
    found, _, _ = watched(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", old)
    assert "FailureReason" not in found
    assert sizes(deck.service.fleets(endpoint)) == {"serving": (2, 1.0)}


def test_a_rollback_that_fails_leaves_both_serving_and_a_blue_green_update_ends_it(deck: Deck, fault: Any) -> None:
    old, new = deck.config(count=2), deck.config(count=2)
    endpoint = deck.endpoint(old)
    fault("silent_rollback", endpoint=endpoint, times=1)
    broken = fault("failed_start", config=old)
    update(deck, endpoint, new, rolling(1, wait=0, back=1))
    found = deck.settled(endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("UpdateRollbackFailed", old)
    assert "The rollback failed: " in found["FailureReason"]
    assert sizes(deck.service.fleets(endpoint)) == {"serving": (0, 0.0), "not rolled back": (2, 1.0)}
    assert deck.ask(endpoint)["Body"].read()
    with pytest.raises(ClientError, match="cannot start from two fleets"):
        update(deck, endpoint, new, rolling(1))
    weights = [{"VariantName": "main", "DesiredInstanceCount": 2}]
    with pytest.raises(ClientError, match="is UpdateRollbackFailed"):
        deck.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=endpoint, DesiredWeightsAndCapacities=weights
        )
    update(deck, endpoint, old)  # the old one still does not start
    assert deck.settled(endpoint)["EndpointStatus"] == "UpdateRollbackFailed"
    assert deck.ask(endpoint)["Body"].read()
    requests.delete(f"{deck.service.url}/_slimline/faults/{broken}", timeout=10)
    update(deck, endpoint, old)
    found, _, _ = watched(deck, endpoint)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", old)
    assert "FailureReason" not in found and sizes(deck.service.fleets(endpoint)) == {"serving": (2, 1.0)}


def test_a_rolling_update_is_for_one_variant(deck: Deck) -> None:
    model = deck.model()
    config = deck.config(variant("a", model, 2), variant("b", model, 2))
    with pytest.raises(ClientError, match=r"single production variant only; endpoint configuration .* has a, b"):
        deck.sagemaker.create_endpoint(EndpointName="two", EndpointConfigName=config, DeploymentConfig=rolling(1))
