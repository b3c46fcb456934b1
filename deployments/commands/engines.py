"""``slimline engines``: other libraries that a recipe can choose."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from deployments.commands.names import one_of
from deployments.commands.terminal import AsJson, err, guarded, out, show_json
from deployments.local.stack import stack_here

KNOWN = ("llm-compressor", "optimum", "auto-gptq", "lm-eval", "sagemaker")


def engines(
    build: Annotated[
        str | None,
        typer.Option(help="Build this one's environment now: minutes, and gigabytes", autocompletion=one_of(*KNOWN)),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the other engines that a recipe can choose, what each does, and which environments are built."""
    from deployments.engines import build_engine, engine_rows

    home = stack_here(None).home / "engines"
    with guarded(as_json):
        if build is not None:
            build_engine(build, home, err)
        rows = engine_rows(home)
    if as_json:
        show_json(rows)
        return
    table = Table(*rows[0])
    table.columns[0].no_wrap = True  # the name is what a person types
    for row in rows:
        table.add_row(*row.values())
    out.print(table)
