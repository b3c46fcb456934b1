"""SageMakerPublicHub as far as DescribeHubContent reads it: stand-in documents of the documented shape.

The real hub's documents are AWS's and need its network. What lies in ``hub_documents/`` was written for rehearsals and
tests: the same fields, a model of nobody's, and files that a person puts into the stack's own S3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from deployments.local.endpoint_service.wire import AwsError, Json

HUB = "SageMakerPublicHub"
_FOLDER = Path(__file__).with_name("hub_documents")


class Hub:
    """One operation."""

    def __init__(self, region: str) -> None:
        self._region = region
        self.operations: dict[str, Callable[[Json], Json]] = {"DescribeHubContent": self.describe_hub_content}

    def describe_hub_content(self, request: Json) -> Json:
        name = request["HubContentName"]
        path = _FOLDER / f"{name}.json"
        if request["HubName"].rpartition("/")[2] != HUB or request["HubContentType"] != "Model" or not path.is_file():
            raise AwsError(
                "ResourceNotFound", f"Hub content {name} of type {request['HubContentType']} does not exist."
            )
        found = json.loads(path.read_text())
        version = request.get("HubContentVersion", found["version"])
        if version != found["version"]:
            raise AwsError("ResourceNotFound", f"Hub content {name} with version {version} does not exist.")
        hub = f"arn:aws:sagemaker:{self._region}:aws:hub/{HUB}"
        document = json.dumps(found["document"]).replace("REGION", self._region)
        return {
            "HubContentName": name,
            "HubContentArn": f"arn:aws:sagemaker:{self._region}:aws:hub-content/{HUB}/Model/{name}/{version}",
            "HubContentVersion": version,
            "HubContentType": "Model",
            "DocumentSchemaVersion": "2.3.0",
            "HubName": HUB,
            "HubArn": hub,
            "HubContentDescription": found["stand_in"],
            "HubContentDocument": document,
            "HubContentStatus": "Available",
            "CreationTime": found["created"],
        }
