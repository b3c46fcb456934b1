"""``slimline completion``: the script that lets a shell complete commands, options, deployments and names."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # re-exported, not declared

PROGRAM = "slimline"
# What Typer's script for zsh lacks, by the line of it that is replaced.
_ZSH = {
    # Typer writes an apostrophe of a help text as two of them.
    f"_{PROGRAM}_completion() {{": f"_{PROGRAM}_completion() {{\n  setopt localoptions rcquotes",
    # A file on the fpath is run by the first Tab: that one has to be answered too, and not only the next.
    f"compdef _{PROGRAM}_completion {PROGRAM}": (
        f"compdef _{PROGRAM}_completion {PROGRAM}\nif (( $+compstate )); then _{PROGRAM}_completion; fi"
    ),
}


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Whose script to print")]) -> None:
    """Print the script that completes slimline in a shell.

    The embedded stack's endpoints, models and versions are completed too while it runs.
    """
    script = get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell)
    if shell == "zsh":
        script = "\n".join(_ZSH.get(line, line) for line in script.splitlines())
    typer.echo(script)
