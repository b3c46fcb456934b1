"""A trial: the old and the new version in one endpoint config, as two production variants or as variant and shadow.

SageMaker's guardrails want equal variant names, so here the traffic is moved by weights and the release's own judge
decides. Where a trial stands is told by the endpoint alone: its config's tags name what came before and what is wanted.
Shadow variants: https://docs.aws.amazon.com/sagemaker/latest/dg/model-shadow-deployment.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection, date_of
from tasks.adapters.protection import UNPROTECTED, Protection
from tasks.adapters.sagemaker_errors import endpoint_missing, is_absent
from tasks.adapters.sagemaker_make import Maker
from tasks.adapters.sagemaker_names import CHALLENGER, PREVIOUS, VARIANT, WANTED, content_name
from tasks.adapters.sagemaker_requests import Blueprint, capture_config
from tasks.adapters.sagemaker_scaling import Scaler
from tasks.plans import ReleasePlan

if TYPE_CHECKING:
    from mypy_boto3_sagemaker.type_defs import (
        CreateEndpointConfigInputTypeDef,
        UpdateEndpointInputTypeDef,
        UpdateEndpointWeightsAndCapacitiesInputTypeDef,
    )


@dataclass(frozen=True)
class Standing:
    """An endpoint with a trial at one moment. ``share``: the challenger's part of the traffic, 0–1; none without one.

    ``now`` and ``modified`` (the last change of the endpoint) are seconds since 1970 by the service's clock.
    """

    status: str
    config: str
    pending_config: str | None
    share: float | None
    instances: Mapping[str, int]
    modified: float
    now: float
    failure_reason: str


@dataclass(frozen=True)
class Trial:
    """What the tags of a trial's config say, and when it was made, by the service's clock."""

    config: str
    previous: str
    wanted: str
    since: float


def trial_config(
    made: Blueprint,
    serving: Mapping[str, Any],
    previous: str,
    instances: int,
    plan: ReleasePlan,
    bucket: str,
    protection: Protection = UNPROTECTED,
) -> CreateEndpointConfigInputTypeDef:
    """Both versions in one config: the old model under its own variant's name, the new one as ``challenger``.

    Both have as many new instances as the old version has now, so the baseline is fresh and of the same size.

    Args:
        made: The new version's fleet.
        serving: The variant of the config ``previous`` that serves now.
    """
    old = {**serving, "InitialInstanceCount": instances, "InitialVariantWeight": 1.0}
    new: Any = {**made.config["ProductionVariants"][0], "VariantName": CHALLENGER, "InitialInstanceCount": instances}
    shadow = plan.mode == "SHADOW"
    new["InitialVariantWeight"] = 1.0 if shadow else 0.0  # of a shadow: copies of every request
    variants: Any = {"ProductionVariants": [old, new]}
    if shadow:
        capture = {**capture_config(plan.capture_percent, bucket), **protection.of_capture()}
        variants = {"ProductionVariants": [old], "ShadowProductionVariants": [new], "DataCaptureConfig": capture}
    variants |= protection.of_config(old["InstanceType"], new["InstanceType"])
    version = next(tag["Value"] for tag in made.tags if tag["Key"] == "slimline:version")
    tags = [*made.tags, {"Key": PREVIOUS, "Value": previous}, {"Key": WANTED, "Value": made.name}]
    request: Any = {
        "EndpointConfigName": content_name(plan.endpoint, version, [previous, variants]),
        "Tags": tags,
        **variants,
    }
    return request  # type: ignore[no-any-return]


def weights(endpoint: str, percent: int) -> UpdateEndpointWeightsAndCapacitiesInputTypeDef:
    """Give the challenger ``percent`` of the traffic."""
    return {
        "EndpointName": endpoint,
        "DesiredWeightsAndCapacities": [
            {"VariantName": VARIANT, "DesiredWeight": (100 - percent) / 100},
            {"VariantName": CHALLENGER, "DesiredWeight": percent / 100},
        ],
    }


def replace(endpoint: str, config: str, *, retain: bool = False) -> UpdateEndpointInputTypeDef:
    """All traffic to new instances of ``config`` once they are healthy. ``retain``: as many as there are now."""
    request: UpdateEndpointInputTypeDef = {"EndpointName": endpoint, "EndpointConfigName": config}
    if retain:
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DesiredWeight"}]
    return request


class Trials:
    """Trials of one connection."""

    def __init__(
        self, aws: Connection, maker: Maker, bucket: str, scaler: Scaler, protection: Protection = UNPROTECTED
    ) -> None:
        self._aws, self._maker, self._bucket = aws, maker, bucket
        self._scaler, self._protection = scaler, protection

    def standing(self, endpoint: str) -> Standing:
        """What the endpoint says.

        Raises:
            EndpointMissing: there is no such endpoint.
        """
        try:
            seen = self._aws.call("sagemaker", "DescribeEndpoint", EndpointName=endpoint)
        except ClientError as error:
            if is_absent(error):
                raise endpoint_missing(endpoint, "DescribeEndpoint found none") from error
            raise
        variants = [*seen.get("ProductionVariants", []), *seen.get("ShadowProductionVariants", [])]
        now = {variant["VariantName"]: float(variant.get("CurrentWeight", 0.0)) for variant in variants}
        shadow = CHALLENGER in {variant["VariantName"] for variant in seen.get("ShadowProductionVariants", [])}
        return Standing(
            status=seen["EndpointStatus"],
            config=seen["EndpointConfigName"],
            pending_config=seen.get("PendingDeploymentSummary", {}).get("EndpointConfigName"),
            share=None if CHALLENGER not in now else 0.0 if shadow else now[CHALLENGER] / (sum(now.values()) or 1.0),
            instances={v["VariantName"]: int(v.get("CurrentInstanceCount", 0)) for v in variants},
            modified=seen["LastModifiedTime"].timestamp(),
            now=date_of(seen),
            failure_reason=seen.get("FailureReason", ""),
        )

    def read(self, config: str | None) -> Trial | None:
        """What ``config`` is a trial of; none where it is no trial of Slimline's, or is not there."""
        if config is None:
            return None
        try:
            seen = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        arn = seen["EndpointConfigArn"]
        tags = {tag["Key"]: tag["Value"] for tag in self._aws.pages("sagemaker", "ListTags", "Tags", ResourceArn=arn)}
        if not {PREVIOUS, WANTED} <= tags.keys():
            return None
        return Trial(config, tags[PREVIOUS], tags[WANTED], seen["CreationTime"].timestamp())

    def begin(self, endpoint: str, made: Blueprint, plan: ReleasePlan) -> Trial:
        """Make both configs and ask for the trial. Does not wait."""
        seen = self.standing(endpoint)
        before = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=seen.config)
        variant = before["ProductionVariants"][0]
        instances = seen.instances.get(variant["VariantName"], 0) or int(variant["InitialInstanceCount"])
        self._maker.fleet(made)
        request = trial_config(made, variant, seen.config, instances, plan, self._bucket, self._protection)
        name = request["EndpointConfigName"]
        self._maker.config(request)
        self._scaler.hold(endpoint)
        self._move(endpoint, replace(endpoint, name))
        found = self.read(name)
        assert found is not None
        return found

    def weigh(self, endpoint: str, percent: int) -> None:
        """Give the challenger ``percent`` of the traffic. Does not wait."""
        self._aws.call("sagemaker", "UpdateEndpointWeightsAndCapacities", **weights(endpoint, percent))

    def finish(self, endpoint: str, config: str, previous: str) -> None:
        """From the trial to ``config``: the new version's own, or the previous one. Asked again it changes nothing.

        Where autoscaling or a person has changed the count that ``previous`` had, the count of now is kept.
        """
        seen, configured = self.standing(endpoint), self.configured(previous)
        self._move(endpoint, replace(endpoint, config, retain=seen.instances.get(VARIANT, configured) != configured))

    def configured(self, config: str) -> int:
        """InitialInstanceCount of the config's first variant."""
        seen = self._aws.call("sagemaker", "DescribeEndpointConfig", EndpointConfigName=config)
        return int(seen["ProductionVariants"][0]["InitialInstanceCount"])

    def _move(self, endpoint: str, request: UpdateEndpointInputTypeDef) -> None:
        wanted = request["EndpointConfigName"]

        def happened() -> bool:
            seen = self.standing(endpoint)
            return wanted in (seen.config, seen.pending_config)

        if not happened():
            self._scaler.make_way(endpoint, self.standing(endpoint).config, wanted)
            self._maker.ask("UpdateEndpoint", request, happened)
