"""CloudWatch over the protocols of older and other SDKs: botocore's own clients, told to speak them."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError

from tests.local.stack import Deck


@pytest.fixture(scope="module", params=["query", "smithy-rpc-v2-cbor"])
def client(request: pytest.FixtureRequest, deck: Deck, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client whose service model names one protocol only, as models of other years did."""
    model = botocore.session.get_session().get_component("data_loader").load_service_model("cloudwatch", "service-2")
    model["metadata"] |= {"protocol": request.param, "protocols": [request.param]}
    folder: Path = tmp_path_factory.mktemp("models") / "cloudwatch" / "2010-08-01"
    folder.mkdir(parents=True)
    with gzip.open(folder / "service-2.json.gz", "wt") as file:
        json.dump(model, file)
    session = botocore.session.Session()
    session.set_config_variable("data_path", str(folder.parents[1]))
    session.set_credentials("test", "test")
    found = session.create_client("cloudwatch", region_name="us-east-1", endpoint_url=deck.service.url)
    assert found.meta.service_model.resolved_protocol == request.param
    return found


def test_metrics_alarms_and_errors(client: Any, deck: Deck) -> None:
    namespace, name, now = f"n-{uuid.uuid4().hex[:8]}", f"a/b & <c>-{uuid.uuid4().hex[:8]}", deck.now()
    data = {"MetricName": "m", "Timestamp": now, "Values": [1.0, 2.0, 4.0], "Counts": [1.0, 1.0, 2.0], "Unit": "Count"}
    client.put_metric_data(Namespace=namespace, MetricData=[data | {"Dimensions": [{"Name": "k", "Value": "ü & <v>"}]}])
    listed = client.list_metrics(Namespace=namespace)["Metrics"]
    assert listed[0]["Dimensions"] == [{"Name": "k", "Value": "ü & <v>"}]
    span = {"StartTime": now - timedelta(hours=1), "EndTime": now + timedelta(hours=1)}
    points = client.get_metric_statistics(
        Namespace=namespace,
        MetricName="m",
        Dimensions=listed[0]["Dimensions"],
        Period=86_400,
        ExtendedStatistics=["PR(:2)"],
        **span,
    )["Datapoints"]
    assert [(point["ExtendedStatistics"], point["Unit"]) for point in points] == [({"PR(:2)": 50.0}, "Count")]
    assert abs(points[0]["Timestamp"] - span["StartTime"]) < timedelta(minutes=1)
    stat = {"Metric": {"Namespace": namespace, "MetricName": "m", **listed[0]}, "Period": 86_400, "Stat": "Sum"}
    queries = [{"Id": "m", "MetricStat": stat, "ReturnData": False}, {"Id": "e", "Expression": "m * 2"}]
    results = client.get_metric_data(MetricDataQueries=queries, **span)["MetricDataResults"]
    assert [(each["Id"], each["Values"]) for each in results] == [("e", [22.0])]
    client.put_metric_alarm(
        AlarmName=name,
        Namespace=namespace,
        MetricName="m",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.5,
        ComparisonOperator="GreaterThanThreshold",
    )
    found = client.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    assert [(alarm["AlarmName"], alarm["Threshold"]) for alarm in found] == [(name, 1.5)]
    client.delete_alarms(AlarmNames=[name])
    for call, code, status in (
        (lambda: client.delete_alarms(AlarmNames=[name]), "ResourceNotFound", 404),
        (lambda: client.put_metric_data(Namespace="AWS/x", MetricData=[data]), "InvalidParameterValue", 400),
        (lambda: client.list_metric_streams(), "NotImplementedException", 501),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert (error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (
            code,
            status,
        )
