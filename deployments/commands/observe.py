"""``slimline observe``: one look at an endpoint, from a terminal or a pipeline."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.commands.names import endpoint_names
from deployments.commands.terminal import AsJson, Aws, BasePort, Code, guarded, out, show_json, use_stack


def observe(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name", autocompletion=endpoint_names)],
    window: Annotated[int, typer.Option(help="Minutes to look at, and as many before", min=5, max=1440)] = 60,
    min_requests: Annotated[int, typer.Option(help="A window with fewer says nothing", min=10)] = 100,
    as_json: AsJson = False,
    aws: Aws = False,
    base_port: BasePort = None,
) -> None:
    """Say how an endpoint does: healthy, degraded, or no data. It changes nothing and sets nothing off.

    Exit code 3 when degraded, 4 without enough data. The deployment `observe` does the same on a schedule, keeps the
    report and can restore.
    """
    with guarded(as_json):
        use_stack(aws, base_port, "mlflow", "endpoints")
        from deployments.inspection import naming_endpoints
        from deployments.summary import code_name, print_observed
        from tasks.cloud import sagemaker
        from tasks.monitoring_plan import ObserveRules
        from tasks.observe import observed
        from tasks.settings import settings

        rules = ObserveRules(window_minutes=window, min_requests=min_requests)
        cloud = sagemaker()
        with naming_endpoints(cloud):
            found = observed(cloud, settings().mlflow_url, endpoint, rules)
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        print_observed(found, out)
    raise typer.Exit(Code[code_name(found)])
