"""``/_slimline/``: what AWS does not have. JSON for tests and programs, one page for people."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import unquote

from deployments.local.endpoint_service.alarms import Alarm, AlarmBook
from deployments.local.endpoint_service.clock import Clock
from deployments.local.endpoint_service.composite import Composite
from deployments.local.endpoint_service.faults import KINDS, Faults
from deployments.local.endpoint_service.shown import fleets
from deployments.local.endpoint_service.state import State
from deployments.local.endpoint_service.wire import Answer, Json, json_answer

DIFFERS = [
    "Instance types are names: every instance is one local process.",
    "A container image is mapped to a local program; an image without one makes the endpoint Failed.",
    "LMI, Hugging Face and TGI images are served by Slimline's own engine in their place, which each fleet says; it "
    "answers in Hugging Face's shape, a list, where LMI answers an object.",
    "The public hub holds one stand-in document of the documented shape (hub_documents/); its files are "
    "yours to put into S3.",
    "Waiting (bakes, alarm periods) runs on a virtual clock; model start and latency take wall time, unscaled.",
    "ModelLatency and OverheadLatency are this machine's, in microseconds of wall time.",
    "Metrics are visible to alarms at once; AWS may take a minute or more.",
    "A restart of the service keeps everything but metrics; endpoints are SystemUpdating until they serve again.",
    "Target tracking wants instances x metric / target, rounded up: AWS does not document its formula.",
    "Transform jobs run the same local programs; an output object appears when its whole input was answered.",
    "Signatures, IAM permissions, quotas, KMS and VPC settings are not checked.",
    "What is not implemented answers 501 with its name.",
]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d2430;background:#fff}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde2ea;vertical-align:top}
th{font-weight:600;background:#f4f6f9}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.w{white-space:nowrap}.bar{display:inline-block;height:.7em;background:#3465a4;vertical-align:middle;margin-right:.4em}
.warn{color:#a40000;font-weight:600}.ok{color:#2e7d32}.dim{color:#667}h2{margin-bottom:0}ul{margin:.2rem 0 1.5rem}
@media(prefers-color-scheme:dark){body{background:#15181d;color:#dde2ea}th{background:#22272f}td,th{border-color:#333a45}
.bar{background:#7aa7e0}.warn{color:#ff8a80}.ok{color:#81c784}.dim{color:#99a}}
"""

_SHADES = {"ALARM": "warn", "OK": "ok"}  # no data is not good news


class Pages:
    """Answers ``GET /_slimline/…``."""

    def __init__(
        self, state: State, alarms: AlarmBook, clock: Clock, faults: Faults, logs: str, healthy: Callable[[], bool]
    ) -> None:
        self._state = state
        self._faults = faults
        self._alarms = alarms
        self._clock = clock
        self._logs = logs
        self._healthy = healthy

    def __call__(self, path: str) -> Answer:
        rest = path.removeprefix("/_slimline").strip("/")
        if rest == "":
            return _html(self._page())
        if rest == "info":
            return _json(self._info())
        if rest == "health":
            return _json({"status": "ok"}) if self._healthy() else _json({"status": "backend is down"}, 503)
        if rest == "faults":
            return _json({"kinds": {name: what for name, (what, _) in KINDS.items()}, "faults": self._faults.listed()})
        kind, _, name = rest.partition("/")
        endpoint = self._state.endpoints.get(unquote(name)) if kind == "fleets" else None
        if endpoint is None:
            return _json(
                {"error": f"nothing at {path}", "known": ["info", "health", "faults", "fleets/<endpoint>"]}, 404
            )
        return _json(fleets(endpoint))

    def _info(self) -> Json:
        return {
            "service": "slimline-endpoint-service",
            "rehearsal": True,
            "speed": self._clock.speed,
            "now": _time(self._clock.now()),
            "region": self._state.region,
            "logs": self._logs,
            "differs": DIFFERS,
        }

    def _page(self) -> str:
        speed = f"clock runs {self._clock.speed:g}× ({_time(self._clock.now())})"
        parts = [
            f"<h1>Slimline endpoint service</h1><p>A rehearsal of SageMaker on this machine; {html.escape(speed)}.</p>"
        ]
        parts += [_endpoint(fleets(endpoint)) for endpoint in self._state.endpoints.values()]
        if not self._state.endpoints:
            parts.append("<p class=dim>No endpoint yet.</p>")
        parts += [self._job_table(), self._alarm_table(), self._fault_list()]
        items = "".join(f"<li>{html.escape(line)}</li>" for line in DIFFERS)
        return "".join([*parts, f"<h2>How this differs from AWS</h2><ul>{items}</ul>"])

    def _job_table(self) -> str:
        """The newest transform jobs."""
        rows = [
            f"<tr><td>{html.escape(job.name)}<td>{html.escape(job.model.name)}"
            f"<td class={'warn' if job.failure else 'ok'}>{job.status}<td>{html.escape(job.failure or '')}</tr>"
            for job in list(self._state.transforms.values())[-20:]
        ]
        head = "<h2>Transform jobs</h2><table><tr><th>Name<th>Model<th>Status<th>Reason</tr>"
        return head + "".join(rows) + "</table>" if rows else ""

    def _alarm_table(self) -> str:
        alarms: list[Alarm | Composite] = [*self._alarms.alarms.values(), *self._alarms.composites.values()]
        rows = [
            f"<tr><td>{html.escape(alarm.name)}</td><td class={_SHADES.get(alarm.state, 'dim')}>"
            f"{alarm.state}</td><td>{html.escape(alarm.reason)}</td></tr>"
            for alarm in alarms
        ]
        head = "<h2>Alarms</h2><table><tr><th>Name<th>State<th>Reason</tr>"
        return head + "".join(rows) + "</table>" if rows else ""

    def _fault_list(self) -> str:
        """Faults must not be mistaken for the model's own."""
        items = [
            f"<li>{html.escape(fault['kind'])} {html.escape(fault['endpoint'] or fault['operation'])} "
            f"<span class=dim>{fault['happened']} of {fault['considered']} times ({fault['id']})</span></li>"
            for fault in self._faults.listed()
        ]
        return f"<h2 class=warn>Rehearsed faults</h2><ul>{''.join(items)}</ul>" if items else ""


def _endpoint(seen: Json) -> str:
    """One endpoint: its fleets, variant by variant, and what happened."""
    esc = html.escape
    rows = []
    for fleet in seen["fleets"]:
        for name, variant in fleet["variants"].items():
            stage = seen["stage"].get(name, ["", ""]) if fleet["role"] == "new" else ["", ""]
            healthy = sum(each["healthy"] for each in variant["instances"])
            width = f"<span class=bar style='width:{6 * variant['traffic']:.2f}em'></span>"
            errors = variant["errors_4xx"] + variant["errors_5xx"]
            rows.append(
                f"<tr><td>{esc(fleet['config'])} <span class=dim>({fleet['role']})</span><td>{esc(name)}"
                f"<div class=dim>{esc(variant['stand_in'])}</div>"
                f"<td class=w>{width}{100 * variant['traffic']:.0f} %<td class=n>{variant['weight']:g}"
                f"<td class='n w'>{variant['active_instances']} of {healthy} healthy<td class=n>{variant['requests']}"
                f"<td class='n {'warn' if errors else ''}'>{errors}<td>{esc(stage[0])} "
                f"<span class=dim>{esc(stage[1])}</span></tr>"
            )
    for gone in list(seen["retired"])[-5:]:
        errors = gone["errors_4xx"] + gone["errors_5xx"]
        rows.append(
            f"<tr class=dim><td>{esc(gone['config'])} (ended)<td><td><td><td><td class=n>{gone['requests']}"
            f"<td class=n>{errors}<td></tr>"
        )
    events = "".join(f"<li>{_time(e['when'])} {esc(e['what'])}</li>" for e in seen["history"][-12:])
    failure = f"<p class=warn>{esc(seen['failure'])}</p>" if seen["failure"] else ""
    good = "ok" if seen["status"] == "InService" else "warn"
    return (
        f"<h2>{esc(seen['endpoint'])}</h2>"
        f"<p><span class={good}>{seen['status']}</span> on {esc(seen['config'])}</p>{failure}"
        "<table><tr><th>Fleet<th>Variant<th>Traffic<th class=n>Weight<th class=n>Active<th class=n>Requests"
        f"<th class=n>Errors<th>Stage</tr>{''.join(rows)}</table><ul class=dim>{events}</ul>"
    )


def text(status: int, body: str) -> Answer:
    return Answer(status, body.encode(), [("content-type", "text/plain; charset=utf-8")])


def _json(value: Json, status: int = 200) -> Answer:
    answer = json_answer(value, "application/json", status)
    answer.body = json.dumps(value, indent=2).encode() + b"\n"
    return answer


def _html(body: str) -> Answer:
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>"
        f"<title>Slimline endpoint service</title><style>{_STYLE}</style><body>{body}</body></html>"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    return Answer(
        200, page.encode(), [("content-type", "text/html; charset=utf-8"), ("content-security-policy", policy)]
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
