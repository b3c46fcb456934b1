"""What is refused before anything is created: a plan, a batch, an image, an endpoint that cannot be updated now.

Every request that a plan leads to is built here, by the same code that asks later, and held against the documented
limits (``sagemaker_limits``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.adapters.aws_connection import Connection
from tasks.adapters.inference_kinds import ARCHIVE, check_inference
from tasks.adapters.obstacles import require_none
from tasks.adapters.protection import Protection, check_region
from tasks.adapters.sagemaker_errors import endpoint_missing
from tasks.adapters.sagemaker_limits import check_request, check_rules
from tasks.adapters.sagemaker_monitoring import check_monitoring
from tasks.adapters.sagemaker_names import VARIANT
from tasks.adapters.sagemaker_observe import Serving, read_serving
from tasks.adapters.sagemaker_requests import Blueprint, alarms, blueprint, create_endpoint, update_endpoint
from tasks.adapters.sagemaker_trials import replace, trial_config, weights
from tasks.adapters.scaling_limits import check_scaling
from tasks.adapters.serveability import UNKNOWN, obstacles
from tasks.contracts import ModelPackage, ModelRef, RegisteredModel
from tasks.errors import RefusedRequest, ReleaseStuck
from tasks.plans import ReleasePlan

_PLACEHOLDER_ACCOUNT = ":123456789012:"
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.+")


class Checks:
    """What one connection would ask for, built and checked."""

    def __init__(
        self,
        aws: Connection,
        bucket: str,
        role_arn: str,
        environment: Mapping[str, str],
        run: str,
        protection: Protection,
    ) -> None:
        """The arguments are those of ``SageMaker``."""
        self._aws, self._bucket, self._role_arn = aws, bucket, role_arn
        self._environment, self._run, self._protection = environment, run, protection

    def blueprint(self, package: ModelPackage, plan: ReleasePlan) -> Blueprint:
        """The package's fleet, unchecked. See ``sagemaker_requests.blueprint``."""
        return blueprint(package, plan, self._role_arn, self._environment, self._run, self._bucket, self._protection)

    def prepared(self, package: ModelPackage, plan: ReleasePlan) -> Blueprint:
        """The package's fleet, once its plan and its image have been checked.

        Raises:
            RefusedRequest: as ``plan``; or SageMaker does not take images from there.
        """
        self.plan(plan)
        if self._aws.rehearsal_speed is None:
            self._image(package.image)
        return self.blueprint(package, plan)

    def plan(self, plan: ReleasePlan) -> None:
        """Build every request that ``plan`` leads to and check it; on AWS also refuse what only a rehearsal may do.
        What depends on the model's folder is checked by ``serveability.obstacles`` when it is packaged.

        Raises:
            RefusedRequest: with the field, what it holds, its limit, and what to change.
        """
        check_rules(plan)
        check_inference(plan, rehearsed=self._aws.rehearsal_speed is not None)
        check_scaling(plan)
        require_none(obstacles(UNKNOWN, plan))
        if self._aws.rehearsal_speed is None:
            self._check_for_aws(plan)
        made = self.blueprint(_stand_in(self._bucket, plan), plan)
        check_request("sagemaker", "CreateModel", made.model)
        check_request("sagemaker", "CreateEndpointConfig", made.config)
        check_request("sagemaker", "CreateEndpoint", create_endpoint(plan.endpoint, made))
        if plan.on_trial:
            self._check_trial(made, plan)
        moves = plan.after_shadow if plan.on_trial else plan
        check_request("sagemaker", "UpdateEndpoint", update_endpoint(plan.endpoint, made.name, moves, retain=False))
        for alarm in alarms(plan.endpoint, made.name, plan):
            check_request("cloudwatch", "PutMetricAlarm", alarm)
        check_monitoring(plan, rehearsal=self._aws.rehearsal_speed is not None)

    def _check_trial(self, made: Blueprint, plan: ReleasePlan) -> None:
        variant = made.config["ProductionVariants"][0]
        config = trial_config(made, variant, made.name, plan.instances, plan, self._bucket, self._protection)
        check_request("sagemaker", "CreateEndpointConfig", config)
        for percent in plan.shares if plan.mode != "SHADOW" else ():
            check_request("sagemaker", "UpdateEndpointWeightsAndCapacities", weights(plan.endpoint, percent))
        for retain in (False, True):
            check_request("sagemaker", "UpdateEndpoint", replace(plan.endpoint, made.name, retain=retain))

    def _check_for_aws(self, plan: ReleasePlan) -> None:
        rehearsal = plan.rehearsal
        if rehearsal.error_share or rehearsal.requests_per_second:
            raise RefusedRequest(
                "rehearsed traffic and faults are for the embedded stack only: on AWS real users are the traffic",
                observed=f"{rehearsal.requests_per_second} requests_per_second, {rehearsal.error_share} error_share",
                limit="0 and 0",
                remedy="set both to 0 in plan.rehearsal",
            )
        self._role()

    def _role(self) -> None:
        if _PLACEHOLDER_ACCOUNT in self._role_arn:
            raise RefusedRequest(
                "the execution role is the placeholder", observed=self._role_arn, limit="a role of your account",
                remedy="create it from deployments/aws/execution-role-policy.json and set SLIMLINE_ROLE_ARN",
            )  # fmt: skip
        check_region(self._aws.region, {"the KMS key": self._protection.kms_key})

    def batch(self, image: str) -> ModelPackage:
        """A stand-in for the package that a batch transform will serve; on AWS the role and the image are checked.

        Raises:
            RefusedRequest: with the field, what it holds, its limit, and what to change.
        """
        if self._aws.rehearsal_speed is None:
            self._role()
            self._image(image)
        return _stand_in(self._bucket, ReleasePlan(inference="SERVERLESS")).model_copy(update={"image": image})

    def _image(self, image: str) -> None:
        if not _ECR.fullmatch(image):
            raise RefusedRequest(
                "SageMaker takes images from ECR", observed=image,
                limit="<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>",
                remedy="push the image and set SLIMLINE_IMAGE",
            )  # fmt: skip
        check_region(self._aws.region, {"the image": image})


def require_ready(aws: Connection, endpoint: str) -> Serving:
    """What the endpoint says, where a version can be released to it now.

    Raises:
        EndpointMissing, ReleaseStuck, RefusedRequest: it is absent, busy or failed, or has other variants.
    """
    serving = read_serving(aws, endpoint)
    if serving is None:
        raise endpoint_missing(endpoint, "DescribeEndpoint found none")
    if serving.status != "InService":
        raise ReleaseStuck(
            f"endpoint {endpoint} cannot be updated now",
            observed=f"{serving.status} {serving.failure_reason}".strip(), limit="InService",
            remedy="wait until the other update has ended, or mend the endpoint",
        )  # fmt: skip
    if serving.variants != (VARIANT,):
        raise RefusedRequest(
            "a guarded update keeps the variant's name, and Slimline's fleets have one variant",
            observed=", ".join(serving.variants), limit=VARIANT,
            remedy="release to a new endpoint, or first move this one to a config with that one variant",
        )  # fmt: skip
    return serving


def _stand_in(bucket: str, plan: ReleasePlan) -> ModelPackage:
    """A package like those that registering makes, so that a plan's requests can be checked before there is one."""
    digest = "0" * 64
    model = ModelRef(
        uri="model", digest=digest, name="model", licence="", architecture="", parameters=0, bytes=0, dtype="float32"
    )
    registered = RegisteredModel(name="model", version="0", alias="", model=model, run_id="0" * 32, url="")
    uri = f"s3://{bucket}/models/{digest}{ARCHIVE if plan.inference == 'SERVERLESS' else '/'}"
    return ModelPackage(registered=registered, s3_uri=uri, image="image", digest=digest)
