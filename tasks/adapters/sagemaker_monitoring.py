"""Make, read and remove what stands guard over an endpoint: its alarms and its dashboard.

In the ledger before each call; the same requests every time, so a release that repeats them changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tasks.adapters.aws_connection import Connection
from tasks.adapters.dashboards import dashboard_body, dashboard_name
from tasks.adapters.ledger import Kind, Ledger
from tasks.adapters.sagemaker_alarms import left_out, standing_alarms, standing_names
from tasks.adapters.sagemaker_errors import endpoint_missing, is_absent
from tasks.adapters.sagemaker_limits import check_request
from tasks.adapters.sagemaker_names import tags_of
from tasks.adapters.sagemaker_observe import read_serving
from tasks.errors import RefusedRequest
from tasks.plans import ReleasePlan

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import PutDashboardInputTypeDef, PutMetricAlarmInputTypeDef

_LONGEST = "arn:aws-us-gov:sagemaker:ap-northeast-1:123456789012:endpoint/"  # stands in for an ARN before there is one


@dataclass(frozen=True)
class Guard:
    """What stands now. ``notes``: what was asked for and could not be made, or what AWS said about it."""

    alarms: tuple[str, ...]
    dashboard: str | None
    notes: tuple[str, ...]


def check_monitoring(plan: ReleasePlan, *, rehearsal: bool) -> None:
    """Check every request that the plan's monitoring leads to, before anything is made.

    Raises:
        RefusedRequest: with the field and its limit.
    """
    monitoring = plan.monitoring
    if monitoring.breaching > monitoring.minutes:
        raise RefusedRequest(
            "an alarm cannot ask for more minutes over the limit than it looks at",
            observed=f"plan.monitoring.breaching = {monitoring.breaching} of {monitoring.minutes} minutes",
            limit="breaching at most minutes", remedy="lower plan.monitoring.breaching, or raise minutes",
        )  # fmt: skip
    if rehearsal and monitoring.topic:
        raise RefusedRequest(
            "the embedded stack tells no SNS topic", observed=f"plan.monitoring.topic = {monitoring.topic}",
            limit="no topic in a rehearsal", remedy="leave plan.monitoring.topic empty here; on AWS it is used",
        )  # fmt: skip
    for alarm in _alarms(plan):
        check_request("cloudwatch", "PutMetricAlarm", alarm)
    if monitoring.dashboard:
        check_request("cloudwatch", "PutDashboard", _dashboard(plan, _LONGEST + plan.endpoint))


class Monitoring:
    """The guards of one connection's endpoints."""

    def __init__(self, aws: Connection, ledger: Ledger) -> None:
        self._aws, self._ledger = aws, ledger

    def apply(self, plan: ReleasePlan) -> Guard:
        """Make alarms and dashboard of the plan's endpoint as it says; what it no longer wants goes.

        Raises:
            EndpointMissing: there is no such endpoint.
        """
        serving = read_serving(self._aws, plan.endpoint)
        if serving is None:
            raise endpoint_missing(plan.endpoint, "DescribeEndpoint found none")
        endpoint, notes = plan.endpoint, left_out(plan.monitoring, plan.instance_type)
        wanted = _alarms(plan)
        for alarm in wanted:
            self._ledger.creating("standing-alarm", alarm["AlarmName"])
            self._aws.call("cloudwatch", "PutMetricAlarm", **alarm)
        names = tuple(alarm["AlarmName"] for alarm in wanted)
        self._remove_alarms([name for name in standing_names(endpoint).values() if name not in names])
        if not plan.monitoring.dashboard:
            self._remove_dashboard(endpoint)
            return Guard(names, None, tuple(notes))
        request = _dashboard(plan, serving.arn)
        self._ledger.creating("dashboard", request["DashboardName"])
        answer = self._aws.call("cloudwatch", "PutDashboard", **request)
        notes += [f"dashboard: {said.get('Message', said)}" for said in answer.get("DashboardValidationMessages", [])]
        return Guard(names, request["DashboardName"], tuple(notes))

    def states(self, endpoint: str) -> dict[str, str]:
        """OK, ALARM or INSUFFICIENT_DATA of each standing alarm that there is, by what it watches."""
        names = {name: kind for kind, name in standing_names(endpoint).items()}
        answer = self._aws.call("cloudwatch", "DescribeAlarms", AlarmNames=list(names))
        return {names[alarm["AlarmName"]]: alarm["StateValue"] for alarm in answer.get("MetricAlarms", [])}

    def remove(self, endpoint: str) -> None:
        """With the endpoint its guards go."""
        self._remove_alarms(list(standing_names(endpoint).values()))
        self._remove_dashboard(endpoint)

    def _remove_alarms(self, names: list[str]) -> None:
        there = self._aws.call("cloudwatch", "DescribeAlarms", AlarmNames=names) if names else {}
        for alarm in there.get("MetricAlarms", []):
            name = alarm["AlarmName"]
            self._gone("standing-alarm", name, lambda name=name: self._delete_alarm(name))  # type: ignore[misc]

    def _delete_alarm(self, name: str) -> object:
        return self._aws.call("cloudwatch", "DeleteAlarms", AlarmNames=[name])

    def _remove_dashboard(self, endpoint: str) -> None:
        name = dashboard_name(endpoint, self._aws.region)
        self._gone("dashboard", name, lambda: self._aws.call("cloudwatch", "DeleteDashboards", DashboardNames=[name]))

    def _gone(self, kind: Kind, name: str, remove: Callable[[], object]) -> None:
        try:
            remove()
        except ClientError as error:
            if not is_absent(error):
                raise
        self._ledger.deleted(kind, name)


def _alarms(plan: ReleasePlan) -> list[PutMetricAlarmInputTypeDef]:
    tags = tags_of({"slimline:endpoint": plan.endpoint})
    return standing_alarms(plan.endpoint, plan.monitoring, plan.instance_type, tags)


def _dashboard(plan: ReleasePlan, arn: str) -> PutDashboardInputTypeDef:
    return {
        "DashboardName": dashboard_name(plan.endpoint, arn.split(":")[3]),
        "DashboardBody": dashboard_body(plan.endpoint, arn, plan.monitoring, plan.instance_type),
    }
