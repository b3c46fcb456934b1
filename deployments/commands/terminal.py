"""What every command shares: where it prints, how it ends, the options that are the same everywhere, its examples.

Results go to standard output; progress, remarks and errors to standard error. With ``--json`` standard output holds
JSON and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from deployments.local.stack import Stack, stack_here
from tasks.errors import SlimlineError

# No markup: a model may write [/INST], and a path may be in brackets.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)


class Code(IntEnum):
    """How a command ends, the same for all of them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO = 3
    NO_VERDICT = 4
    INTERRUPTED = 130


MEANING = {
    Code.DONE: "done; where there is a question, the answer is yes",
    Code.FAILED: "failed, so there is no answer: refused input, unknown name, server down",
    Code.USAGE: "wrong command line; nothing was started",
    Code.NO: "the answer is no: gate failed, taken back, degraded, something is missing, …",
    Code.NO_VERDICT: "no verdict: too little data, or a release that is stuck",
    Code.INTERRUPTED: "Ctrl-C; a run that was started goes on",
}
# By the error's name: one that a run ended with has come here as text.
_CODES = {
    "GateFailed": Code.NO, "ReleaseRestored": Code.NO, "NotReproduced": Code.NO, "ReleaseStuck": Code.NO_VERDICT,
}  # fmt: skip

BasePort = Annotated[
    int | None,
    typer.Option(help="First of four ports in a row (default: SLIMLINE_BASE_PORT, else 4310)", min=1024, max=65000),
]
Aws = Annotated[bool, typer.Option("--aws", help="AWS with your own credentials, not the stack")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else there")]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def exit_codes() -> str:
    """The end of the program's help."""
    return "\n".join(["Exit codes, the same for every command:", *(f"  {code:<4} {MEANING[code]}" for code in Code)])


def show_json(value: Any) -> None:
    """One document."""
    out.print_json(json.dumps(value, ensure_ascii=False))


def show_json_line(value: Any) -> None:
    """One document on one line, of several."""
    out.print(json.dumps(value, ensure_ascii=False))


@contextmanager
def guarded(as_json: bool = False, **context: Any) -> Iterator[None]:
    """An expected failure ends the command with four lines and its exit code instead of a traceback. ``context``
    stands beside the error in JSON.
    """
    try:
        yield
    except SlimlineError as error:
        raise _told(error, as_json, context) from None
    except KeyboardInterrupt:
        raise typer.Exit(Code.INTERRUPTED) from None
    except Exception as error:
        from tasks.retrying import is_transient  # here: it loads Prefect

        if isinstance(error, typer.Exit) or not is_transient(error):
            raise
        raise _told(_no_answer(error), as_json, context) from None


def _told(error: SlimlineError, as_json: bool, context: dict[str, Any]) -> typer.Exit:
    kind = getattr(error, "kind", "") or type(error).__name__
    code = _CODES.get(kind, Code.FAILED)
    err.print(Text.assemble((kind, "red"), f": {error}"))
    if as_json:
        parts = {"observed": error.observed, "limit": error.limit, "remedy": error.remedy}
        told = {"kind": kind, "cause": error.cause} | {name: str(value) for name, value in parts.items()}
        show_json(context | getattr(error, "context", {}) | {"error": told, "exit_code": int(code)})
    return typer.Exit(code)


def _no_answer(error: Exception) -> SlimlineError:
    said = str(error).strip().splitlines() or [""]
    return SlimlineError(
        "a server did not answer as it should",
        observed=f"{type(error).__name__}: {said[0]}",
        limit="an answer",
        remedy="on the embedded stack: slimline status, then slimline up; with --aws: slimline doctor --aws",
    )


def use(stack: Stack) -> None:
    """Point this process at ``stack``. Before Prefect is imported: it reads its settings then."""
    os.environ.update(stack.environment())
    quiet_downloads()


def use_stack(aws: bool, base_port: int | None, *parts: str) -> Stack:
    """As ``use``, unless the command is about AWS; where ``parts`` of the stack are named, they must answer.

    Raises:
        StackError: one of ``parts`` does not.
    """
    stack = stack_here(base_port)
    quiet_downloads()
    if not aws:
        if parts:
            stack.require_up(*parts)
        use(stack)
    return stack


def quiet_downloads() -> None:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for files of a few lines


def parameters(pairs: list[str] | None, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """``a.b=1`` becomes ``{"a": {"b": 1}}``, beside what is ``given``. A value that is not JSON is a string."""
    nested: dict[str, Any] = given or {}
    for pair in pairs or []:
        path, sign, text = pair.partition("=")
        if not sign:
            raise typer.BadParameter(f"{pair!r} has no '='; write name=value, such as recipe.quantize.bits=8")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, leaf = path.split(".")
        here = nested
        for name in parents:
            here = here.setdefault(name, {})
            if not isinstance(here, dict):
                raise typer.BadParameter(f"{pair!r} sets a part of {name}, which another -p sets whole")
        here[leaf] = value
    return nested
