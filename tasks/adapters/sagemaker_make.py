"""Create what a release needs, once: in the ledger before the request, and asked for only where it is not there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from tasks.adapters import sagemaker_cleanup
from tasks.adapters.aws_connection import Connection
from tasks.adapters.ledger import Ledger
from tasks.adapters.sagemaker_errors import NotReadyYet, error_of, is_absent
from tasks.adapters.sagemaker_requests import Blueprint

# Seconds between tries while AWS has not heard everywhere of what was just made: a role, a policy, a config.
SETTLING = (1.0, 2.0, 4.0, 8.0)


class Maker:
    """Models, configs and alarms of one connection."""

    def __init__(self, aws: Connection, ledger: Ledger) -> None:
        self._aws, self._ledger = aws, ledger
        self._made: set[str] = set()

    def fleet(self, made: Blueprint) -> None:
        """The model and the config of one version."""
        self.model(made.model)
        self.config(made.config)

    def model(self, request: Mapping[str, Any]) -> None:
        """One model."""
        name = request["ModelName"]
        if not self._exists("DescribeModel", ModelName=name):
            self._ledger.creating("model", name)
            self.ask("CreateModel", request, lambda: self._exists("DescribeModel", ModelName=name))
            self._made.add(name)

    def forget_model(self, name: str) -> None:
        """Delete a model; absent already is well."""
        if self._exists("DescribeModel", ModelName=name):
            self._aws.call("sagemaker", "DeleteModel", ModelName=name)
        self._ledger.deleted("model", name)

    def config(self, request: Mapping[str, Any]) -> None:
        """One endpoint config."""
        name = {"EndpointConfigName": request["EndpointConfigName"]}
        if not self._exists("DescribeEndpointConfig", **name):
            self._ledger.creating("endpoint-config", request["EndpointConfigName"])
            self.ask("CreateEndpointConfig", request, lambda: self._exists("DescribeEndpointConfig", **name))
            self._made.add(request["EndpointConfigName"])

    def alarms(self, requests: Iterable[Mapping[str, Any]]) -> None:
        """The alarms of one rollout, in their first state."""
        wanted = list(requests)
        # Deleted first: an alarm that an earlier try has fired would keep its state and end this one at once.
        sagemaker_cleanup.delete_alarms(self._aws, [alarm["AlarmName"] for alarm in wanted])
        for alarm in wanted:
            self._ledger.creating("alarm", alarm["AlarmName"])
            self._aws.call("cloudwatch", "PutMetricAlarm", **alarm)

    def ask(self, operation: str, request: Mapping[str, Any], happened: Callable[[], bool]) -> None:
        """Call, and where it is refused look whether it has happened: botocore asks again when an answer was lost.
        What was made a moment ago may not be known everywhere yet: asked again for a quarter of a minute.
        """
        for delay in (*SETTLING, None):
            try:
                self._aws.call("sagemaker", operation, **request)
                return
            except NotReadyYet:
                if delay is None:
                    raise
            except ClientError as error:
                if happened():
                    return
                if delay is None or not self._made_just_now(error):
                    raise
            time.sleep(delay)

    def _made_just_now(self, error: ClientError) -> bool:
        """Whether the answer misses what this process has made itself."""
        return is_absent(error) and any(name in error_of(error)[1] for name in self._made)

    def _exists(self, operation: str, **name: Any) -> bool:
        try:
            self._aws.call("sagemaker", operation, **name)
        except ClientError as error:
            if is_absent(error):
                return False
            raise
        return True
