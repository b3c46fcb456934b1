"""``slimline lineage`` and ``slimline reproduce``: where a thing comes from, and whether it can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from deployments.local.stack import stack_here
from tasks.adapters.serving_history import parse_time
from tasks.lineage_tree import Node, shown

console = Console(highlight=False, soft_wrap=True, markup=False)
wrapping = Console(highlight=False, markup=False)  # a tree that is cut at the terminal's edge tells nothing
_STYLES = {
    "endpoint": "bold cyan", "variant": "cyan", "version": "bold green", "run": "blue", "stage": "blue",
    "model": "", "data": "yellow", "digest": "bold", "release": "green", "history": "dim",
}  # fmt: skip

BasePort = Annotated[int | None, typer.Option(help="First of four ports in a row [default: 4310]", min=1024, max=65000)]


def lineage(
    what: Annotated[
        str, typer.Argument(help="An endpoint, model/version (or model/champion), or at least 8 hex digits of a digest")
    ],
    at: Annotated[
        str | None, typer.Option(help="What the endpoint served then, such as 2026-11-20T12:00; UTC unless it says")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Every move of a model's aliases and traffic; WHAT is the model's name")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    aws: Annotated[bool, typer.Option("--aws", help="AWS with your own credentials, not the stack")] = False,
    base_port: BasePort = None,
) -> None:
    """Follow an endpoint back to its data, or a digest forward to the endpoints that it serves on.

    Examples: slimline lineage slimline-demo; slimline lineage slimline/3 --json; slimline lineage 4fe1c09a;
    slimline lineage slimline-demo --at 2026-11-20T12:00; slimline lineage slimline --history
    """

    def work() -> None:
        if not aws:
            _use(base_port)
        from tasks.lineage import history_of, lineage_of, served_at

        found = history_of if history else lineage_of
        nodes = found(what) if at is None else [served_at(what, _time(at))]
        if as_json:
            console.print_json(json.dumps([node.model_dump() for node in nodes]))
        else:
            for node in nodes:
                wrapping.print(tree(node))

    _guarded(work)


def reproduce(
    model: Annotated[str, typer.Argument(help="Name of the registered model")],
    version: Annotated[str, typer.Argument(help="A version's number, or an alias")] = "champion",
    repeats: Annotated[int, typer.Option(help="Re-runs; their spread is the band", min=1, max=20)] = 1,
    base_port: BasePort = None,
) -> None:
    """Make a version again without any cache, and say whether it comes out as recorded. Exit code 1 when not.

    Example: slimline reproduce slimline-tiny champion --repeats 3
    """

    def work() -> None:
        stack = stack_here(base_port)
        stack.require_up()
        _use(base_port)
        from deployments.follow import run_and_follow
        from deployments.summary import print_outcome

        wanted: dict[str, Any] = {"model": model, "version": version, "repeats": repeats}
        print_outcome(run_and_follow("reproduce", wanted, stack.prefect_url, console), console)

    _guarded(work)


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

    try:
        return parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-11-20 or 2026-11-20T12:00+01:00") from error


def _use(base_port: int | None) -> None:
    """Before Prefect is imported: it reads its settings then."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files of a few lines
    from deployments.cli import _use as use

    use(stack_here(base_port))


def _guarded(work: Callable[[], None]) -> None:
    from deployments.cli import _guarded as guarded

    guarded(work)
