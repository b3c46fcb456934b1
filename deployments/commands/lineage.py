"""``slimline lineage``: where a thing comes from, and where it went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from deployments.commands.names import lineage_names
from deployments.commands.terminal import AsJson, Aws, BasePort, guarded, show_json, use_stack
from tasks.lineage_tree import Node, shown

wrapping = Console(highlight=False, markup=False)  # a tree that is cut at the terminal's edge tells nothing
_STYLES = {
    "endpoint": "bold cyan", "variant": "cyan", "version": "bold green", "run": "blue", "stage": "blue",
    "model": "", "data": "yellow", "digest": "bold", "release": "green", "history": "dim",
}  # fmt: skip


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            help="An endpoint, model/version (or model/champion), or at least 8 hex digits of a digest",
            autocompletion=lineage_names,
        ),
    ],
    at: Annotated[
        str | None, typer.Option(help="What the endpoint served then, such as 2026-11-20T12:00; UTC unless it says")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Every move of a model's aliases and traffic; WHAT is the model's name")
    ] = False,
    as_json: AsJson = False,
    aws: Aws = False,
    base_port: BasePort = None,
) -> None:
    """Follow an endpoint back to its data, or a digest forward to the endpoints that it serves on."""
    with guarded(as_json):
        use_stack(aws, base_port, "mlflow", "endpoints")
        from tasks.lineage import history_of, lineage_of, served_at

        found = history_of if history else lineage_of
        nodes = found(what) if at is None else [served_at(what, _time(at))]
        if as_json:
            show_json([node.model_dump() for node in nodes])
        for node in [] if as_json else nodes:
            wrapping.print(tree(node))


def tree(node: Node) -> Tree:
    """For the terminal: one line a node, its facts dimmed behind it."""
    root = Tree(_label(node), guide_style="dim")
    for child in node.children:
        root.add(tree(child))
    return root


def _label(node: Node) -> Text:
    url = f"  {node.url}" if node.url and node.kind in ("version", "run") else ""
    facts = f"  {shown(node.facts)}" if node.facts else ""
    return Text.assemble((node.title, _STYLES[node.kind]), (facts, "dim"), (url, "dim"))


def _time(text: str) -> datetime:
    from tasks.adapters.serving_history import parse_time  # here: it loads MLflow

    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-11-20 or 2026-11-20T12:00+01:00") from error
