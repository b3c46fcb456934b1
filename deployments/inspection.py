"""Read the embedded endpoint service with plain boto3."""

from __future__ import annotations

from typing import Any

import boto3

from deployments.local.stack import Stack


def endpoints(stack: Stack) -> list[dict[str, Any]]:
    """Name, status and config of every endpoint."""
    client = boto3.client(
        "sagemaker",
        endpoint_url=stack.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="embedded",
        aws_secret_access_key="embedded",  # the service checks no signature
    )
    found = []
    for page in client.get_paginator("list_endpoints").paginate():
        for entry in page["Endpoints"]:
            described = client.describe_endpoint(EndpointName=entry["EndpointName"])
            found.append(
                {
                    "name": entry["EndpointName"],
                    "status": described["EndpointStatus"],
                    "config": described["EndpointConfigName"],
                    "reason": described.get("FailureReason", ""),
                }
            )
    return found
