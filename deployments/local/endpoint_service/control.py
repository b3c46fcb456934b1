"""The SageMaker control plane: models, endpoint configurations, lists and tags. Endpoints are in ``endpoints``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deployments.local.endpoint_service import rules
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.state import EndpointConfig, Model, State
from deployments.local.endpoint_service.wire import Json, epoch, invalid, timestamp

_PAGE = 10  # ListEndpoints: "This value defaults to 10"


class Control:
    """One method an operation; ``operations`` maps the wire's names to them."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self.operations: dict[str, Callable[[Json], Json]] = {
            "CreateModel": self.create_model,
            "DescribeModel": self.describe_model,
            "ListModels": self.list_models,
            "DeleteModel": self.delete_model,
            "CreateEndpointConfig": self.create_endpoint_config,
            "DescribeEndpointConfig": self.describe_endpoint_config,
            "ListEndpointConfigs": self.list_endpoint_configs,
            "DeleteEndpointConfig": self.delete_endpoint_config,
            "AddTags": self.add_tags,
            "ListTags": self.list_tags,
            "DeleteTags": self.delete_tags,
        }

    def create_model(self, request: Json) -> Json:
        container = rules.model_container(request)
        name = request["ModelName"]
        arn = self._state.arn("model", name)
        if name in self._state.models:
            raise invalid(f'Cannot create already existing model "{arn}".')
        self._state.set_tags(arn, request.get("Tags", []))
        self._state.models[name] = Model(name, arn, self._clock.now(), request, container)
        return {"ModelArn": arn}

    def describe_model(self, request: Json) -> Json:
        model = self._state.model(request["ModelName"])
        shown = {key: value for key, value in model.request.items() if key != "Tags"}
        return {
            "EnableNetworkIsolation": False,
            **shown,
            "ModelArn": model.arn,
            "CreationTime": epoch(model.created),
        }

    def list_models(self, request: Json) -> Json:
        found = listed(self._state.models.values(), request)
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", _PAGE))
        shown = [{"ModelName": m.name, "ModelArn": m.arn, "CreationTime": epoch(m.created)} for m in items]
        return {"Models": shown} | token

    def delete_model(self, request: Json) -> Json:
        model = self._state.model(request["ModelName"])
        del self._state.models[model.name]
        self._state.tags.pop(model.arn, None)
        return {}

    def create_endpoint_config(self, request: Json) -> Json:
        rules.endpoint_config(request)
        name = request["EndpointConfigName"]
        arn = self._state.arn("endpoint-config", name)
        if name in self._state.configs:
            raise invalid(f'Cannot create already existing endpoint configuration "{arn}".')
        for variant in (*request["ProductionVariants"], *request.get("ShadowProductionVariants", [])):
            self._state.model(variant["ModelName"])
        self._state.set_tags(arn, request.get("Tags", []))
        self._state.configs[name] = EndpointConfig(name, arn, self._clock.now(), request)
        return {"EndpointConfigArn": arn}

    def describe_endpoint_config(self, request: Json) -> Json:
        config = self._state.config(request["EndpointConfigName"])
        shown = {key: value for key, value in config.request.items() if key != "Tags"}
        kinds = {"ProductionVariants": config.variants, "ShadowProductionVariants": config.shadows}
        variants = {
            kind: [{"InitialVariantWeight": 1.0, **variant} for variant in found]
            for kind, found in kinds.items()
            if found
        }
        return {
            "EnableNetworkIsolation": False,
            **shown,
            **variants,
            "EndpointConfigArn": config.arn,
            "CreationTime": epoch(config.created),
        }

    def list_endpoint_configs(self, request: Json) -> Json:
        found = listed(self._state.configs.values(), request)
        items, token = page(found, request.get("NextToken"), request.get("MaxResults", _PAGE))
        shown = [
            {"EndpointConfigName": c.name, "EndpointConfigArn": c.arn, "CreationTime": epoch(c.created)} for c in items
        ]
        return {"EndpointConfigs": shown} | token

    def delete_endpoint_config(self, request: Json) -> Json:
        """Allowed while an endpoint uses it, as on AWS; UpdateEndpoint on that endpoint fails from then on."""
        config = self._state.config(request["EndpointConfigName"])
        del self._state.configs[config.name]
        self._state.tags.pop(config.arn, None)
        return {}

    def add_tags(self, request: Json) -> Json:
        arn = self._known(request["ResourceArn"])
        self._state.set_tags(arn, request["Tags"])
        return {"Tags": request["Tags"]}

    def list_tags(self, request: Json) -> Json:
        tags = self._state.tags[self._known(request["ResourceArn"])]
        shown = [{"Key": key, "Value": value} for key, value in tags.items()]
        items, token = page(shown, request.get("NextToken"), request.get("MaxResults", 50))
        return {"Tags": items} | token

    def delete_tags(self, request: Json) -> Json:
        tags = self._state.tags[self._known(request["ResourceArn"])]
        for key in request["TagKeys"]:
            tags.pop(key, None)
        return {}

    def _known(self, arn: str) -> str:
        if arn not in self._state.tags:
            raise invalid(f'Could not find resource "{arn}".')
        return arn


def listed(items: Iterable[Any], request: Json) -> list[Any]:
    """Filtered and sorted as every List operation has it: newest first unless asked otherwise."""
    found = [item for item in items if request.get("NameContains", "").lower() in item.name.lower()]
    for member, attribute, after in (
        ("CreationTimeAfter", "created", True),
        ("CreationTimeBefore", "created", False),
        ("LastModifiedTimeAfter", "modified", True),
        ("LastModifiedTimeBefore", "modified", False),
    ):
        if request.get(member) is not None:
            limit = timestamp(request[member])
            found = [item for item in found if (getattr(item, attribute) > limit) == after]
    if request.get("StatusEquals"):
        found = [item for item in found if item.status == request["StatusEquals"]]
    key = {"Name": lambda item: item.name, "Status": lambda item: (item.status, item.name)}.get(
        request.get("SortBy", "CreationTime"), lambda item: item.created
    )
    return sorted(found, key=key, reverse=request.get("SortOrder", "Descending") == "Descending")
