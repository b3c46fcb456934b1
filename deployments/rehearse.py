"""``slimline fault``: make something go wrong on the embedded endpoint service, and make it stop."""

from __future__ import annotations

import json
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from deployments.local.endpoint_service.faults import KINDS
from deployments.local.stack import stack_here

app = typer.Typer(no_args_is_help=True, help="Faults on the embedded endpoint service, for rehearsals.")
console = Console(highlight=False, soft_wrap=True, markup=False)

BasePort = Annotated[int | None, typer.Option(help="First of four ports in a row", min=1024, max=65000)]
_SECONDS = 10.0


@app.command("kinds")
def kinds() -> None:
    """What can go wrong."""
    table = Table("kind", "what it does", "fields")
    for name, (what, fields) in KINDS.items():
        table.add_row(name, what, ", ".join(fields))
    console.print(table)


@app.command("add")
def add(
    kind: Annotated[str, typer.Argument(help="errors, latency, …; see slimline fault kinds")],
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint")] = None,
    config: Annotated[str | None, typer.Option(help="Only the fleet of this EndpointConfig")] = None,
    job: Annotated[str | None, typer.Option(help="Only this transform job")] = None,
    operation: Annotated[str | None, typer.Option(help="throttling, refusal: only this, as DescribeEndpoint")] = None,
    share: Annotated[float | None, typer.Option(help="Share that is hit, evenly spread, 0–1")] = None,
    status: Annotated[int | None, typer.Option(help="errors: HTTP status")] = None,
    seconds: Annotated[float | None, typer.Option(help="latency, slow_start, clock_jump: seconds")] = None,
    code: Annotated[str | None, typer.Option(help="refusal: AWS's error code, ResourceLimitExceeded")] = None,
    message: Annotated[str | None, typer.Option(help="refusal: the text that goes with it")] = None,
    times: Annotated[int | None, typer.Option(help="End after so many")] = None,
    base_port: BasePort = None,
) -> None:
    """Add a fault.

    Example: slimline fault add errors --endpoint slimline-demo --share 0.12
    """
    given: dict[str, Any] = {"endpoint": endpoint, "config": config, "operation": operation, "share": share}
    given |= {"job": job, "kind": kind, "status": status, "seconds": seconds, "code": code, "message": message}
    given["times"] = times
    added = _ask("POST", "", base_port, {name: value for name, value in given.items() if value is not None})
    console.print(f"{added['id']}: {KINDS[kind][0]}. Take it back with: slimline fault clear {added['id']}")


@app.command("list")
def listed(base_port: BasePort = None, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Faults that stand, and how often each has happened."""
    faults = _ask("GET", "", base_port)["faults"]
    if as_json:
        console.print_json(json.dumps(faults))
        return
    table = Table("id", "kind", "where", "happened")
    for fault in faults:
        where = ", ".join(fault[place] for place in ("endpoint", "config", "job", "operation") if fault[place])
        table.add_row(
            fault["id"], fault["kind"], where or "everywhere", f"{fault['happened']} of {fault['considered']}"
        )
    console.print(table if faults else "no fault stands")


@app.command("clear")
def clear(
    name: Annotated[str, typer.Argument(help="A fault's id; all of them when left out")] = "",
    base_port: BasePort = None,
) -> None:
    """Take a fault back, or all."""
    _ask("DELETE", f"/{name}" if name else "", base_port)
    console.print("taken back")


def _ask(method: str, path: str, base_port: int | None, body: Any = None) -> Any:
    """One request to the service's own API; ends the program with what is wrong."""
    url = f"{stack_here(base_port).endpoint_url}/_slimline/faults{path}"
    try:
        answer = httpx.request(method, url, json=body, timeout=_SECONDS)
    except httpx.HTTPError as error:
        console.print(f"the endpoint service does not answer at {url}: {error}. Start it with: slimline up")
        raise typer.Exit(1) from None
    if answer.status_code == 404:
        console.print("no such fault stands; see: slimline fault list")
        raise typer.Exit(1)
    if answer.is_error:
        console.print(answer.json()["error"])
        raise typer.Exit(1)
    return answer.json()
