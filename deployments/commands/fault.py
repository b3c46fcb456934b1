"""``slimline fault``: make something go wrong on the embedded endpoint service, and make it stop."""

from __future__ import annotations

import json
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from deployments.commands.names import endpoint_names, one_of
from deployments.commands.terminal import AsJson, BasePort, examples, guarded, out, show_json
from deployments.local.endpoint_service.faults import KINDS
from deployments.local.stack import stack_here
from tasks.errors import RefusedRequest, SlimlineError

app = typer.Typer(no_args_is_help=True, help="Faults on the embedded endpoint service, for rehearsals.")
_SECONDS = 10.0


@app.command("kinds", epilog=examples("slimline fault kinds"))
def kinds(as_json: AsJson = False) -> None:
    """What can go wrong."""
    if as_json:
        show_json({name: {"what": what, "fields": fields} for name, (what, fields) in KINDS.items()})
        return
    table = Table("kind", "what it does", "fields")
    for name, (what, fields) in KINDS.items():
        table.add_row(name, what, ", ".join(fields))
    out.print(table)


@app.command(
    "add",
    epilog=examples(
        "slimline fault add errors --endpoint slimline-tiny --share 0.12",
        "slimline fault add latency --endpoint slimline-tiny --seconds 0.5",
        "slimline fault add throttling --operation DescribeEndpoint --times 3",
    ),
)
def add(
    kind: Annotated[
        str, typer.Argument(help="errors, latency, …; see slimline fault kinds", autocompletion=one_of(*KINDS))
    ],
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint", autocompletion=endpoint_names)] = None,
    config: Annotated[str | None, typer.Option(help="Only the fleet of this EndpointConfig")] = None,
    job: Annotated[str | None, typer.Option(help="Only this transform job")] = None,
    operation: Annotated[str | None, typer.Option(help="throttling, refusal: only this, as DescribeEndpoint")] = None,
    share: Annotated[float | None, typer.Option(help="Share that is hit, evenly spread, 0–1")] = None,
    status: Annotated[int | None, typer.Option(help="errors: HTTP status")] = None,
    seconds: Annotated[float | None, typer.Option(help="latency, slow_start, clock_jump: seconds")] = None,
    code: Annotated[str | None, typer.Option(help="refusal: AWS's error code, ResourceLimitExceeded")] = None,
    message: Annotated[str | None, typer.Option(help="refusal: the text that goes with it")] = None,
    times: Annotated[int | None, typer.Option(help="End after so many")] = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Add a fault; it stands until it is taken back."""
    given: dict[str, Any] = {"endpoint": endpoint, "config": config, "operation": operation, "share": share}
    given |= {"job": job, "kind": kind, "status": status, "seconds": seconds, "code": code, "message": message}
    given["times"] = times
    wanted = {name: value for name, value in given.items() if value is not None}
    with guarded(as_json):
        added = _ask("POST", "", base_port, wanted)
    if as_json:
        show_json(added)
        return
    out.print(f"{added['id']}: {KINDS[kind][0]}. Take it back with: slimline fault clear {added['id']}")


@app.command("list", epilog=examples("slimline fault list --json"))
def listed(base_port: BasePort = None, as_json: AsJson = False) -> None:
    """Faults that stand, and how often each has happened."""
    with guarded(as_json):
        faults = _ask("GET", "", base_port)["faults"]
    if as_json:
        show_json(faults)
        return
    table = Table("id", "kind", "where", "happened")
    for fault in faults:
        where = ", ".join(fault[place] for place in ("endpoint", "config", "job", "operation") if fault[place])
        table.add_row(
            fault["id"], fault["kind"], where or "everywhere", f"{fault['happened']} of {fault['considered']}"
        )
    out.print(table if faults else "no fault stands")


@app.command("clear", epilog=examples("slimline fault clear", "slimline fault clear fault-2"))
def clear(
    name: Annotated[str, typer.Argument(help="A fault's id; all of them when left out")] = "",
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Take a fault back, or all."""
    with guarded(as_json):
        gone = _ask("DELETE", f"/{name}" if name else "", base_port)
    if as_json:
        show_json(gone)
    else:
        out.print("taken back")


def _ask(method: str, path: str, base_port: int | None, body: Any = None) -> Any:
    """One request to the service's own API.

    Raises:
        SlimlineError: it does not answer, there is no such fault, or it refuses the fault.
    """
    url = f"{stack_here(base_port).endpoint_url}/_slimline/faults{path}"
    try:
        answer = httpx.request(method, url, json=body, timeout=_SECONDS)
    except httpx.HTTPError as error:
        raise SlimlineError(
            f"the endpoint service does not answer at {url}", observed=error, limit="an answer", remedy="slimline up"
        ) from None
    if answer.status_code == 404:
        raise RefusedRequest(
            "no such fault stands", observed=path.strip("/"), limit="a fault's id", remedy="see: slimline fault list"
        )
    if answer.is_error:
        raise RefusedRequest(
            answer.json()["error"], observed=json.dumps(body), limit="the fields of the kind",
            remedy="see: slimline fault kinds",
        )  # fmt: skip
    return answer.json()
