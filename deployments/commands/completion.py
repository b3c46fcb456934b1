"""``slimline completion``: the script that lets a shell complete commands, options, deployments and names."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported, not declared

PROGRAM = "slimline"


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Whose script to print")]) -> None:
    """Print the script that completes slimline in a shell.

    The embedded stack's endpoints, models and versions are completed too while it runs.
    """
    script = get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell)
    typer.echo(script)
