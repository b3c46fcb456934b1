"""``slimline status``: what runs, and what every endpoint serves."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from deployments.commands.names import endpoint_names
from deployments.commands.terminal import AsJson, Aws, BasePort, Code, guarded, out, show_json, show_json_line
from deployments.commands.terminal import use_stack as stack_of


def status(
    endpoint: Annotated[
        str | None,
        typer.Argument(help="Only this endpoint, with its last rollout", autocompletion=endpoint_names),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C; with --json, a line a look"),
    ] = False,
    as_json: AsJson = False,
    aws: Aws = False,
    base_port: BasePort = None,
) -> None:
    """Say what runs, and what every endpoint serves: fleets, share of the traffic, versions, evidence, alarms.

    Exit code 3 when a part of the embedded stack is down, 1 when the endpoint is not there.
    """
    with guarded(as_json):
        stack = stack_of(aws, base_port)
        parts = [] if aws else stack.status()
        reachable = aws or ("endpoints", "up") in {(name, state) for name, state, _ in parts}
        if endpoint and not reachable:
            stack.require_up("endpoints")
        _show(endpoint, parts, reachable, watch, as_json)
    raise typer.Exit(Code.DONE if all(state == "up" for _, state, _ in parts) else Code.NO)


def _show(endpoint: str | None, parts: list[tuple[str, str, str]], reachable: bool, watch: bool, as_json: bool) -> None:
    from deployments.inspection import draw, facts, keep_drawing, keep_telling

    def seen() -> dict[str, Any]:
        found = facts(endpoint) if reachable else {"endpoints": [], "last_rollout": [], "rehearsal": ""}
        return {"parts": parts} | found

    if as_json and watch:
        keep_telling(lambda: show_json_line(seen()))
        return
    if as_json:
        show_json(seen())
        return
    if parts and not (endpoint or watch):
        table = Table("part", "state", "address")
        for row in parts:
            table.add_row(*row)
        out.print(table)
    if not reachable:
        out.print("Start what is down with: slimline up")
    elif watch:
        keep_drawing(out, lambda: draw(endpoint))
    else:
        out.print(draw(endpoint))
