"""What autoscaling asks of endpoints, and what becomes of it: the activities that DescribeScalingActivities tells."""

from __future__ import annotations

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.endpoints import Endpoints
from deployments.local.endpoint_service.fleets import Variant
from deployments.local.endpoint_service.scaling.book import (
    FAILED,
    IN_PROGRESS,
    SUCCESSFUL,
    Activity,
    Book,
    Target,
)
from deployments.local.endpoint_service.state import IN_SERVICE, State
from deployments.local.endpoint_service.wire import AwsError, Json


class Activities:
    """Counts that are set on the service's endpoints, noted in the book."""

    def __init__(self, book: Book, state: State, endpoints: Endpoints, clock: Clock) -> None:
        self._book, self._state, self._endpoints, self._clock = book, state, endpoints, clock

    def set_count(self, target: Target, wanted: int, cause: str) -> bool:
        """Ask the endpoint for the count, as UpdateEndpointWeightsAndCapacities does; whether it has begun."""
        description = f"Setting desired instance count to {wanted}."
        activity = Activity(target.resource, description, cause, self._clock.now(), IN_PROGRESS, wanted=wanted)
        self._book.activities.append(activity)
        change = {"VariantName": target.variant, "DesiredInstanceCount": wanted}
        try:
            self._endpoints.update_weights({"EndpointName": target.endpoint, "DesiredWeightsAndCapacities": [change]})
        except AwsError as error:
            self.end(activity, FAILED, f"Failed to set desired instance count to {wanted}. Reason: {error.message}")
            return False
        self._state.endpoint(target.endpoint).note(activity.started, f"autoscaling: {cause}: {description}")
        return True

    def follow(self, activity: Activity) -> None:
        """See whether the endpoint has reached what an activity wants."""
        endpoint_name, variant_name = activity.resource.split("/")[1::2]
        endpoint = self._state.endpoints.get(endpoint_name)
        done = f"Successfully set desired instance count to {activity.wanted}."
        if endpoint is not None and endpoint.busy:
            activity.message = f"{done} Waiting for change to be fulfilled by sagemaker."
            return
        variant = endpoint.blue.variants.get(variant_name) if endpoint and endpoint.blue else None
        if variant is not None and len(variant.workers) == activity.wanted:
            self.end(activity, SUCCESSFUL, f"{done} Change successfully fulfilled by sagemaker.")
        else:
            has = len(variant.workers) if variant else 0
            why = f"the variant has {has} instance(s); the endpoint's history says why"
            self.end(activity, FAILED, f"Failed to set desired instance count to {activity.wanted}. Reason: {why}")

    def variant(self, target: Target) -> Variant | None:
        """The variant, or None while it cannot be scaled."""
        endpoint = self._state.endpoints.get(target.endpoint)
        if endpoint is None or endpoint.status != IN_SERVICE or endpoint.blue is None:
            return None
        return endpoint.blue.variants.get(target.variant)

    def not_scaled(self, target: Target, cause: str, reason: Json) -> None:
        """Once for each stretch of the same reason: an alarm repeats its action while it lasts."""
        last = next((each for each in reversed(self._book.activities) if each.resource == target.resource), None)
        if last and last.reasons == [reason] and last.cause == cause:
            return
        text, now = "Attempting to scale due to alarm triggered", self._clock.now()
        self._book.activities.append(Activity(target.resource, text, cause, now, FAILED, ended=now, reasons=[reason]))

    def end(self, activity: Activity, status: str, message: str) -> None:
        activity.status, activity.message, activity.ended = status, message, self._clock.now()
