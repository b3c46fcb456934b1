"""``slimline up``, ``down`` and ``demo``: the embedded stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.commands.runs import follow
from deployments.commands.terminal import AsJson, BasePort, err, guarded, out, show_json
from deployments.local.stack import Stack, stack_here

Speed = Annotated[
    float | None,
    typer.Option(help="Clock of the endpoint service: its seconds in one of ours (default: 10)", min=1, max=1000),
]


def up(base_port: BasePort = None, speed: Speed = None, as_json: AsJson = False) -> None:
    """Start Prefect, MLflow, the endpoint service and a worker; serve every deployment.

    What runs already is left as it is.
    """
    stack = stack_here(base_port, speed)
    with guarded(as_json), err.status("starting"):
        stack.up(err.print)
    if as_json:
        show_json({"parts": stack.status(), "pages": _pages(stack)})
    else:
        _print_pages(stack)


def down(base_port: BasePort = None, as_json: AsJson = False) -> None:
    """Stop the embedded stack. What was computed, registered and logged stays in .slimline."""
    said: list[str] = []
    with guarded(as_json), err.status("stopping"):
        stack_here(base_port).down(said.append if as_json else out.print)
    if as_json:
        show_json(dict(line.split(": ", 1) for line in said))


def demo(base_port: BasePort = None, speed: Speed = None, as_json: AsJson = False) -> None:
    """Bring the stack up, run the demo deployment, and leave the stack up to look at."""
    stack = stack_here(base_port, speed)
    with guarded(as_json, deployment="demo"):
        stack.up(err.print)
        code = follow(stack, "demo", {}, as_json)
    if not as_json:
        out.print()
        _print_pages(stack)
    raise typer.Exit(code)


def _pages(stack: Stack) -> dict[str, Any]:
    return {
        "prefect": stack.prefect_url, "mlflow": stack.mlflow_url, "endpoints": f"{stack.endpoint_url}/_slimline/",
        "aws_endpoint_url": stack.endpoint_url, "files": str(stack.home),
    }  # fmt: skip


def _print_pages(stack: Stack) -> None:
    out.print(f"Prefect    {stack.prefect_url}        runs, artifacts, forms")
    out.print(f"MLflow     {stack.mlflow_url}        lineage, metrics, registry")
    out.print(f"Endpoints  {stack.endpoint_url}/_slimline/  fleets, traffic, alarms")
    out.print(f"boto3      AWS_ENDPOINT_URL={stack.endpoint_url}")
    out.print(f"Files      {_short(stack.home)}    Stop with: slimline down")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
