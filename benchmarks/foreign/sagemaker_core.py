"""A release by sagemaker-core's resources, run by the Python of an environment of its own: ``sagemaker_core.py JOB``.

The job is a JSON file: ``model`` (S3 prefix of a model folder), ``image``, ``role``, ``report``. One line a step goes
into the report: what was called, what was seen, seconds. A step that fails ends the process. Where the client itself
fails on every server, that is the expected outcome, and its text stands in the report.
"""

import json
import sys
import time
from pathlib import Path

from sagemaker.core import shapes
from sagemaker.core.resources import Endpoint, EndpointConfig, Model

COUNT = 2
STREAMED = b'{"inputs": "Hello", "parameters": {"max_new_tokens": 8}, "stream": true}'


def main(job):
    rows = []

    def step(name, call, seen):
        began = time.perf_counter()
        value = call()
        rows.append({"step": name, "seen": str(seen(value)), "seconds": round(time.perf_counter() - began, 2)})
        Path(job["report"]).write_text(json.dumps(rows))
        return value

    source = shapes.S3ModelDataSource(s3_uri=job["model"], s3_data_type="S3Prefix", compression_type="None")
    container = shapes.ContainerDefinition(
        image=job["image"], model_data_source=shapes.ModelDataSource(s3_data_source=source)
    )
    model = step(
        "Model.create",
        lambda: Model.create(model_name="core", primary_container=container, execution_role_arn=job["role"]),
        lambda made: made.model_arn,
    )
    variant = shapes.ProductionVariant(
        variant_name="main", model_name="core", initial_instance_count=COUNT, instance_type="ml.g6e.xlarge"
    )
    configs = [
        step(
            "EndpointConfig.create",
            lambda name=name: EndpointConfig.create(endpoint_config_name=name, production_variants=[variant]),
            lambda made: made.endpoint_config_arn,
        )
        for name in ("core-old", "core-new")
    ]
    endpoint = step(
        "Endpoint.create",
        lambda: Endpoint.create(endpoint_name="core", endpoint_config_name="core-old"),
        lambda made: made.endpoint_status,
    )
    step(
        "Endpoint.wait_for_status",
        lambda: endpoint.wait_for_status("InService", poll=1, timeout=300),
        lambda _: endpoint.endpoint_status,
    )
    step("Endpoint.invoke", lambda: invoke(endpoint), lambda text: repr(text))
    step("Endpoint.update", lambda: update(endpoint), lambda made: made.endpoint_status)
    step(
        "Endpoint.wait_for_status",
        lambda: endpoint.wait_for_status("InService", poll=1, timeout=600),
        lambda _: f"{endpoint.endpoint_status} on {endpoint.endpoint_config_name}",
    )
    if endpoint.endpoint_config_name != "core-new":
        raise SystemExit("the update was not kept")
    step("Endpoint.get", lambda: Endpoint.get("core"), lambda got: got.production_variants[0].current_instance_count)
    step("Endpoint.invoke_with_response_stream", lambda: stream(endpoint), str)
    step("Endpoint.delete", endpoint.delete, lambda _: "accepted")
    step("Endpoint.wait_for_delete", lambda: endpoint.wait_for_delete(poll=1, timeout=120), lambda _: "gone")
    for config in configs:
        step("EndpointConfig.delete", config.delete, lambda _: "accepted")
    step("Model.delete", model.delete, lambda _: "accepted")


def invoke(endpoint):
    body = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 4}}).encode()
    answer = endpoint.invoke(body=body, content_type="application/json")
    return json.loads(answer.body.read())[0]["generated_text"]


def update(endpoint):
    """A canary of one of two instances, then the whole fleet."""
    size = shapes.CapacitySize(type="INSTANCE_COUNT", value=1)
    routing = shapes.TrafficRoutingConfig(type="CANARY", wait_interval_in_seconds=60, canary_size=size)
    policy = shapes.BlueGreenUpdatePolicy(traffic_routing_configuration=routing, termination_wait_in_seconds=0)
    endpoint.endpoint_config_name = "core-new"
    return endpoint.update(deployment_config=shapes.DeploymentConfig(blue_green_update_policy=policy))


def stream(endpoint):
    """Release 2.27 parses the answer and then fails on every server: it takes the event stream for a dictionary."""
    try:
        answer = endpoint.invoke_with_response_stream(body=STREAMED, content_type="application/json")
    except AttributeError as error:
        return f"fails in the client itself: {error}"
    return f"{len(list(answer.body))} parts"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
