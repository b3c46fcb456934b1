"""``slimline check``: can a version be served as a release plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.commands.names import folders, model_names, one_of, version_names
from deployments.commands.terminal import AsJson, BasePort, Code, guarded, out, parameters, show_json, use_stack

TARGETS = ("own_cpu", "lmi", "huggingface", "neuron", "jumpstart")
MODES = ("CANARY", "LINEAR", "ALL_AT_ONCE", "ROLLING", "WEIGHTS", "AB_TEST", "SHADOW")


def check(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A model folder; or name a registered version", autocompletion=folders),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of a registered model in MLflow", autocompletion=model_names)
    ] = None,
    version: Annotated[
        str, typer.Option(help="Its version's number, or an alias", autocompletion=version_names)
    ] = "challenger",
    target: Annotated[str | None, typer.Option(help=", ".join(TARGETS), autocompletion=one_of(*TARGETS))] = None,
    instance_type: Annotated[str | None, typer.Option(help="Such as ml.g5.xlarge")] = None,
    mode: Annotated[str | None, typer.Option(help=", ".join(MODES), autocompletion=one_of(*MODES))] = None,
    instances: Annotated[int | None, typer.Option(help="Of the new fleet", min=1)] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="More of the plan: target.lmi.max_model_len=4096")
    ] = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Say whether a version can be served by a container on an instance type and released by a mode.

    Creates nothing. Exit code 0: yes, perhaps with warnings; 3: no, with what to do.
    """
    with guarded(as_json):
        if model is not None:
            use_stack(False, base_port, "mlflow")
        from deployments import check as serving

        try:
            plan = serving.plan_of(target, instance_type, mode, instances, parameters(param))
        except ValueError as error:  # pydantic's: each field with what it holds and its limit
            raise typer.BadParameter(str(error)) from error
        what, facts = serving.facts_of(folder, model, version, plan)
        found = serving.look(facts, plan)
    good = serving.servable(found)
    if as_json:
        shown = {"what": what, "facts": facts.model_dump(), "plan": plan.model_dump(mode="json")}
        show_json(shown | {"servable": good, "obstacles": [each.facts() for each in found]})
    else:
        out.print(serving.draw(what, facts, plan, found))
    raise typer.Exit(Code.DONE if good else Code.NO)
