"""``slimline doctor``: is everything there that a release needs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from deployments.commands.terminal import AsJson, Aws, BasePort, Code, guarded, out, use_stack


def doctor(
    aws: Aws = False,
    instance_type: Annotated[str | None, typer.Option(help="Whose quota to look at (default: the form's)")] = None,
    instances: Annotated[int | None, typer.Option(help="Instances of the endpoint", min=1)] = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Check this machine, the servers and the account, and say what to do for each thing that is not as it must be.

    Exit code 3 when a check failed. Changes nothing.
    """
    with guarded(as_json):
        stack = use_stack(aws, base_port)
        from deployments.doctor import examine, report
        from tasks.plans import ReleasePlan
        from tasks.settings import settings

        asked = {"instance_type": instance_type, "instances": instances}
        plan = ReleasePlan.model_validate({name: value for name, value in asked.items() if value is not None})
        prefect = os.environ.get("PREFECT_API_URL", f"{stack.prefect_url}/api")
        well = report(out, list(examine(settings(), plan, prefect)), as_json)
    raise typer.Exit(Code.DONE if well else Code.NO)
