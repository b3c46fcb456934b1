"""``slimline why``: which part of a stage's cache key changed."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.commands.names import runs_of, stage_names, stages_run
from deployments.commands.terminal import AsJson, BasePort, guarded, out, show_json, use_stack
from tasks.errors import RefusedRequest


def why(
    stage: Annotated[
        str, typer.Argument(help="fetch, prune, quantize, distill, export, evaluate, …", autocompletion=stage_names)
    ],
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Say which part of a stage's cache key changed between its last two runs.

    Reads files of this machine; no server is asked.
    """
    with guarded(as_json):
        use_stack(False, base_port)
        known = stages_run()
        if stage not in known:
            raise RefusedRequest(
                f"{stage} has not run here, so nothing is known of its key", observed=stage,
                limit=", ".join(known) or "no stage has run yet",
                remedy="name one of these, or run one: slimline run tiny",
            )  # fmt: skip
        from tasks.caching import why as changes

        lines = changes(stage)
        if as_json:
            runs = runs_of(stage)
            show_json({"stage": stage, "runs": runs, "changed": lines if runs > 1 else []})
        else:
            out.print("\n".join(lines) if lines else f"{stage}: same key as the run before, so it is cached")
