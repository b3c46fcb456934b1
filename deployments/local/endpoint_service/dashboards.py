"""CloudWatch dashboards: kept and given back. Their bodies are checked to be JSON with widgets; nothing is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable

from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.paging import page
from deployments.local.endpoint_service.state import ACCOUNT
from deployments.local.endpoint_service.wire import AwsError, Json, epoch

_LARGEST = 1_048_576  # characters of a body


class Dashboards:
    """One method an operation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.kept: dict[str, Json] = {}  # name: body and modified; saved with the service's state
        self.operations: dict[str, Callable[[Json], Json]] = {
            "PutDashboard": self.put_dashboard,
            "GetDashboard": self.get_dashboard,
            "ListDashboards": self.list_dashboards,
            "DeleteDashboards": self.delete_dashboards,
        }

    def put_dashboard(self, request: Json) -> Json:
        _check(request["DashboardBody"])
        self.kept[request["DashboardName"]] = {"body": request["DashboardBody"], "modified": self._clock.now()}
        return {"DashboardValidationMessages": []}

    def get_dashboard(self, request: Json) -> Json:
        name = request["DashboardName"]
        self._must_be([name])
        return {
            "DashboardArn": _arn(name),
            "DashboardBody": self.kept[name]["body"],
            "DashboardName": name,
        }

    def list_dashboards(self, request: Json) -> Json:
        found = [
            {
                "DashboardName": name,
                "DashboardArn": _arn(name),
                "LastModified": epoch(each["modified"]),
                "Size": len(each["body"].encode()),
            }
            for name, each in sorted(self.kept.items())
            if name.startswith(request.get("DashboardNamePrefix", ""))
        ]
        items, token = page(found, request.get("NextToken"), 1000)
        return {"DashboardEntries": items} | token

    def delete_dashboards(self, request: Json) -> Json:
        self._must_be(request["DashboardNames"])
        for name in request["DashboardNames"]:
            self.kept.pop(name, None)
        return {}

    def _must_be(self, names: list[str]) -> None:
        if unknown := [name for name in names if name not in self.kept]:
            message = f"Dashboard {', '.join(unknown)} does not exist"
            raise AwsError("DashboardNotFoundError", message, status=404, query_code="ResourceNotFound")


def _arn(name: str) -> str:
    return f"arn:aws:cloudwatch::{ACCOUNT}:dashboard/{name}"  # dashboards have no region


def _check(body: str) -> None:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise _invalid("/", f"Invalid JSON: {error}") from error
    if len(body) > _LARGEST:
        raise _invalid("/", f"The body has {len(body)} characters; at most {_LARGEST} are allowed.")
    if not isinstance(content, dict) or not isinstance(content.get("widgets"), list):
        raise _invalid("/widgets", "Should be an array of widgets")
    for number, widget in enumerate(content["widgets"]):
        if not isinstance(widget, dict) or not isinstance(widget.get("type"), str):
            raise _invalid(f"/widgets/{number}/type", "Should have a type")


def _invalid(path: str, message: str) -> AwsError:
    return AwsError(
        "DashboardInvalidInputError",
        f"The dashboard body is invalid, there is 1 validation error: {path}: {message}",
        query_code="InvalidParameterInput",
        extra={"dashboardValidationMessages": [{"DataPath": path, "Message": message}]},
    )
