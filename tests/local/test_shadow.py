"""Shadow variants and data capture: copies nobody sees, and what was said on both sides, in S3."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.stack import Deck, until, variant


def shadowed(deck: Deck, weight: float = 1.0, capture: dict[str, Any] | None = None, **environment: str) -> str:
    """An endpoint with a production and a shadow variant."""
    name = f"c-{uuid.uuid4().hex[:8]}"
    deck.sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant("main", deck.model())],
        ShadowProductionVariants=[variant("copy", deck.model(**environment), weight=weight)],
        **({"DataCaptureConfig": capture} if capture else {}),
    )
    return deck.endpoint(name)


def capturing(deck: Deck, share: int = 100) -> dict[str, Any]:
    bucket = f"captured-{uuid.uuid4().hex[:8]}"
    deck.service.client("s3").create_bucket(Bucket=bucket)
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": share,
        "DestinationS3Uri": f"s3://{bucket}/here",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }


def captured(deck: Deck, capture: dict[str, Any], endpoint: str, name: str) -> list[dict[str, Any]]:
    s3, bucket = deck.service.client("s3"), capture["DestinationS3Uri"].split("/")[2]
    found = s3.list_objects_v2(Bucket=bucket, Prefix=f"here/{endpoint}/{name}/").get("Contents", [])
    bodies = [s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found]
    return [json.loads(line) for body in bodies for line in body.splitlines()]


def requests_of(deck: Deck, endpoint: str, name: str) -> int:
    count: int = deck.service.fleets(endpoint)["fleets"][0]["variants"][name]["requests"]
    return count


def test_a_shadow_gets_copies_and_its_answers_are_not_given(deck: Deck) -> None:
    endpoint = shadowed(deck, ECHO_ERROR_SHARE="1")
    found = deck.describe(endpoint)
    assert [each["VariantName"] for each in found["ProductionVariants"]] == ["main"]
    assert [each["VariantName"] for each in found["ShadowProductionVariants"]] == ["copy"]
    for _ in range(10):
        assert deck.ask(endpoint)["InvokedProductionVariant"] == "main"
    until(lambda: requests_of(deck, endpoint, "copy"), lambda seen: seen == 10)
    assert deck.service.fleets(endpoint)["fleets"][0]["variants"]["copy"]["errors_5xx"] == 10
    with pytest.raises(ClientError, match="Variant copy not found"):
        deck.ask(endpoint, TargetVariant="copy")


def test_the_weights_say_which_part_is_copied(deck: Deck) -> None:
    endpoint = shadowed(deck, weight=0.25)
    for _ in range(200):
        deck.ask(endpoint)
    copies = until(lambda: requests_of(deck, endpoint, "copy"), lambda seen: seen >= 20)
    assert 20 <= copies <= 85  # 50 expected, ±5 standard deviations


def test_a_slow_shadow_delays_nobody(deck: Deck) -> None:
    endpoint = shadowed(deck, ECHO_SECONDS="3")
    for _ in range(5):
        deck.ask(endpoint)
    assert requests_of(deck, endpoint, "main") == 5
    assert requests_of(deck, endpoint, "copy") == 0, "the first copy has not been answered yet"


def test_both_sides_of_a_request_are_captured_under_one_event(deck: Deck) -> None:
    capture = capturing(deck)
    endpoint = shadowed(deck, capture=capture)
    deck.ask(endpoint, "what", InferenceId="inference-7")
    copies = until(lambda: captured(deck, capture, endpoint, "copy"), lambda seen: len(seen) == 1)
    mains = until(lambda: captured(deck, capture, endpoint, "main"), lambda seen: len(seen) == 1)
    assert mains[0]["eventMetadata"]["eventId"] == copies[0]["eventMetadata"]["eventId"]
    assert mains[0]["eventMetadata"]["inferenceId"] == "inference-7"
    data = mains[0]["captureData"]
    assert json.loads(data["endpointInput"]["data"]) == {"inputs": "what"}
    assert json.loads(data["endpointOutput"]["data"])[0]["generated_text"] == "what"
    assert (data["endpointInput"]["encoding"], data["endpointInput"]["mode"]) == ("JSON", "INPUT")
    assert deck.describe(endpoint)["DataCaptureConfig"]["CaptureStatus"] == "Started"


def test_a_share_is_captured_and_an_unnamed_type_is_base64(deck: Deck) -> None:
    capture = capturing(deck, share=25) | {"CaptureOptions": [{"CaptureMode": "Input"}]}
    del capture["CaptureContentTypeHeader"]
    endpoint = shadowed(deck, capture=capture)
    for _ in range(8):
        deck.ask(endpoint)
    lines = until(lambda: captured(deck, capture, endpoint, "main"), lambda seen: len(seen) == 2)
    assert [set(line["captureData"]) for line in lines] == [{"endpointInput"}] * 2
    assert lines[0]["captureData"]["endpointInput"]["encoding"] == "BASE64"


def test_a_shadow_needs_exactly_one_production_variant(deck: Deck) -> None:
    model = deck.model()
    with pytest.raises(ClientError, match="exactly one production variant and one shadow"):
        deck.sagemaker.create_endpoint_config(
            EndpointConfigName="two-and-one",
            ProductionVariants=[variant("a", model), variant("b", model)],
            ShadowProductionVariants=[variant("c", model)],
        )
