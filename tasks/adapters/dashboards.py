"""An endpoint's CloudWatch dashboard as code: the JSON body of PutDashboard, as plain values.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html: a grid of 24
columns. Dashboards are an account's, not a region's, so the region is part of the name.
"""

from __future__ import annotations

import json
from typing import Any

from tasks.adapters.sagemaker_alarms import INSTANCES, loads, standing_alarms
from tasks.adapters.sagemaker_names import VARIANT
from tasks.adapters.sagemaker_requests import NAMESPACE
from tasks.monitoring_plan import MonitoringPlan

_WIDTH, _HEIGHT = 12, 6
Widget = dict[str, Any]


def dashboard_name(endpoint: str, region: str) -> str:
    return f"{endpoint}-standing-{region}"


def dashboard_body(endpoint: str, arn: str, plan: MonitoringPlan, instance_type: str) -> str:
    """Requests, errors, latency and load of the endpoint ``arn``, with the plan's limits as lines and its alarms.

    The same plan has the same bytes.
    """
    _, partition, _, region, account, _ = arn.split(":", 5)
    alarms = [
        f"arn:{partition}:cloudwatch:{region}:{account}:alarm:{request['AlarmName']}"
        for request in standing_alarms(endpoint, plan, instance_type)
    ]
    graphs = [
        _requests(endpoint),
        _errors(endpoint, plan),
        _latency(endpoint, plan),
        *_loads(endpoint, plan, instance_type),
    ]
    widgets: list[Widget] = [_note(endpoint, plan)]
    if alarms:
        shown = {"title": "Standing alarms", "alarms": alarms}
        widgets.append({"type": "alarm", "x": 0, "y": 2, "width": 24, "height": 3, "properties": shown})
    top = 5 if alarms else 2
    for number, graph in enumerate(graphs):
        place = {"x": number % 2 * _WIDTH, "y": top + number // 2 * _HEIGHT, "width": _WIDTH, "height": _HEIGHT}
        properties = {"region": region, "view": "timeSeries", "period": 60, "stacked": False, **graph}
        widgets.append({"type": "metric", **place, "properties": properties})
    return json.dumps({"start": "-PT6H", "periodOverride": "inherit", "widgets": widgets}, sort_keys=True)


def _note(endpoint: str, plan: MonitoringPlan) -> Widget:
    text = (
        f"## {endpoint}\nMade by Slimline's release; the next one writes it again. Change `plan.monitoring`, not this. "
        f"Alarms: {plan.breaching} of {plan.minutes} minutes over the limit."
    )
    return {"type": "text", "x": 0, "y": 0, "width": 24, "height": 2, "properties": {"markdown": text}}


def _metric(namespace: str, name: str, endpoint: str, **options: object) -> list[object]:
    return [namespace, name, "EndpointName", endpoint, "VariantName", VARIANT, options]


def _requests(endpoint: str) -> Widget:
    names = {"Invocations": "requests", "Invocation4XXErrors": "4xx answers", "Invocation5XXErrors": "5xx answers"}
    metrics = [_metric(NAMESPACE, name, endpoint, stat="Sum", label=label) for name, label in names.items()]
    return {"title": "Requests a minute", "metrics": metrics, "yAxis": {"left": {"min": 0, "showUnits": False}}}


def _errors(endpoint: str, plan: MonitoringPlan) -> Widget:
    parts = [
        _metric(NAMESPACE, "Invocations", endpoint, stat="Sum", id="requests", visible=False),
        _metric(NAMESPACE, "Invocation5XXErrors", endpoint, stat="Sum", id="errors", visible=False),
    ]
    rate: list[object] = [{"expression": "100 * errors / requests", "label": "5xx answers, %", "id": "rate"}]
    graph: Widget = {"title": "Share of 5xx answers, %", "metrics": [*parts, rate]}
    return graph | {"yAxis": {"left": {"min": 0, "showUnits": False}}} | _lines(("limit", 100 * plan.max_error_rate))


def _latency(endpoint: str, plan: MonitoringPlan) -> Widget:
    stats = ("p50", "p90", "p99")
    parts = [_metric(NAMESPACE, "ModelLatency", endpoint, stat=stat, id=stat, visible=False) for stat in stats]
    shown: list[list[object]] = [[{"expression": f"{s} / 1000", "label": s, "id": f"{s}_ms"}] for s in stats]
    graph: Widget = {"title": "ModelLatency, milliseconds", "metrics": [*parts, *shown]}
    limits = (("p90 limit", plan.max_p90_ms), ("p99 limit", plan.max_p99_ms))
    return graph | {"yAxis": {"left": {"min": 0, "showUnits": False}}} | _lines(*limits)


def _loads(endpoint: str, plan: MonitoringPlan, instance_type: str) -> list[Widget]:
    """One graph a metric: their scales differ by the number of cores and GPUs."""
    found = []
    for load in loads(plan, instance_type):
        whole = 100 * (load.scale or 1)
        title = f"{load.metric}, % (a whole instance is {whole})" if load.scale else f"{load.metric}, %"
        graph: Widget = {
            "title": title,
            "metrics": [_metric(INSTANCES, load.metric, endpoint, stat=stat) for stat in ("Average", "Maximum")],
            "yAxis": {"left": {"min": 0, "showUnits": False}},
        }
        found.append(graph | (_lines(("limit", load.limit * load.scale)) if load.scale else {}))
    return found


def _lines(*limits: tuple[str, float]) -> Widget:
    """Horizontal lines; only where there is an alarm."""
    marks = [{"label": label, "value": value, "color": "#b91c1c"} for label, value in limits if value]
    return {"annotations": {"horizontal": marks}} if marks else {}
