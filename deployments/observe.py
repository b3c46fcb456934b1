"""``slimline observe``: one look at an endpoint, from a terminal or a pipeline."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deployments.local.stack import stack_here
from tasks.errors import SlimlineError

EXIT_CODES = {"healthy": 0, "degraded": 1, "no data": 3}  # 2 is a wrong command line's


def observe(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name")],
    window: Annotated[int, typer.Option(help="Minutes to look at, and as many before", min=5, max=1440)] = 60,
    min_requests: Annotated[int, typer.Option(help="A window with fewer says nothing", min=10)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that was seen, for programs")] = False,
    aws: Annotated[bool, typer.Option("--aws", help="AWS with your own credentials, not the stack")] = False,
    base_port: Annotated[int | None, typer.Option(help="First of four ports in a row", min=1024, max=65000)] = None,
) -> None:
    """Say how an endpoint does: healthy, degraded, or no data. It changes nothing and sets nothing off.

    Exit code 1 when degraded, 3 without enough data. The deployment `observe` does the same on a schedule, keeps the
    report and can restore.

    Example: slimline observe slimline-demo --window 30
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    if not aws:  # before Prefect is imported: it reads its settings then
        os.environ.update(stack_here(base_port).environment())
    from deployments.summary import print_observed
    from tasks.cloud import sagemaker
    from tasks.monitoring_plan import ObserveRules
    from tasks.observe import observed
    from tasks.settings import settings

    console = Console(highlight=False, soft_wrap=True, markup=False)
    rules = ObserveRules(window_minutes=window, min_requests=min_requests)
    try:
        found = observed(sagemaker(), settings().mlflow_url, endpoint, rules)
    except SlimlineError as error:
        console.print(Text.assemble((type(error).__name__, "red"), f": {error}"))
        raise typer.Exit(4) from None
    if as_json:
        console.print_json(found.model_dump_json())
    else:
        print_observed(found, console)
    raise typer.Exit(EXIT_CODES[found.state])
