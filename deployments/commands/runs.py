"""``slimline run``, ``compare``, ``release`` and ``reproduce``: trigger a deployment, follow it, say how it ended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from deployments.commands.names import deployment_names, endpoint_names, model_names, search_names, version_names
from deployments.commands.terminal import AsJson, BasePort, Code, err, guarded, out, parameters, show_json, use
from deployments.local.stack import Stack, stack_here

Param = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="Any field of the deployment's form, as name=JSON: recipe.quantize.bits=8"),
]
Mode = Literal["canary", "linear", "all-at-once", "rolling", "weights", "ab-test", "shadow"]


def run(
    deployment: Annotated[
        str,
        typer.Argument(
            help="demo, tiny, compress-only, reader, …; see deployments/prefect.yaml", autocompletion=deployment_names
        ),
    ],
    param: Param = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Trigger a deployment, follow it, and print how it ended.

    Ctrl-C ends the following, not the run.
    """
    raise typer.Exit(_followed(deployment, parameters(param), as_json, base_port))


def compare(
    deployment: Annotated[
        str, typer.Argument(help="A search in deployments/prefect.yaml", autocompletion=search_names)
    ] = "compare",
    recipes: Annotated[int | None, typer.Option(help="How many recipes are tried, at most", min=2, max=200)] = None,
    prefer: Annotated[
        Literal["bytes", "quality", "speed"] | None, typer.Option(help="What decides among those within budget")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the optimiser", min=0)] = None,
    param: Param = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Try many recipes under budgets, and choose one with its reasons.

    Exit code 3 when no recipe keeps within the budgets.
    """
    given = {"recipes": recipes, "prefer": prefer, "seed": seed}
    search = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(_followed(deployment, parameters(param, {"search": search}), as_json, base_port))


def release(
    model: Annotated[str, typer.Argument(help="Name of the registered model", autocompletion=model_names)],
    version: Annotated[str, typer.Option(help="A number, or an alias", autocompletion=version_names)] = "challenger",
    mode: Annotated[Mode, typer.Option(help="Which preset moves the traffic")] = "canary",
    endpoint: Annotated[
        str | None, typer.Option(help="The endpoint, if not the preset's", autocompletion=endpoint_names)
    ] = None,
    param: Param = None,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Move traffic onto a registered version, by one of the presets.

    Exit code 3 when the version was taken back, 4 when it could not be judged.
    """
    given: dict[str, Any] = {"model": model, "version": version}
    given |= {"plan": {"endpoint": endpoint}} if endpoint else {}
    raise typer.Exit(_followed(f"release-{mode}", parameters(param, given), as_json, base_port))


def reproduce(
    model: Annotated[str, typer.Argument(help="Name of the registered model", autocompletion=model_names)],
    version: Annotated[
        str, typer.Argument(help="A version's number, or an alias", autocompletion=version_names)
    ] = "champion",
    repeats: Annotated[int, typer.Option(help="Re-runs; their spread is the band", min=1, max=20)] = 1,
    as_json: AsJson = False,
    base_port: BasePort = None,
) -> None:
    """Make a version again without any cache, and say whether it comes out as recorded.

    Exit code 3 when not. It takes as long as the version's own run, for each repeat.
    """
    wanted: dict[str, Any] = {"model": model, "version": version, "repeats": repeats}
    raise typer.Exit(_followed("reproduce", wanted, as_json, base_port))


def _followed(deployment: str, given: dict[str, Any], as_json: bool, base_port: int | None) -> Code:
    with guarded(as_json, deployment=deployment):
        return follow(stack_here(base_port), deployment, given, as_json)


def follow(stack: Stack, deployment: str, given: dict[str, Any], as_json: bool) -> Code:
    """Run ``deployment`` to its end and print the outcome; gives the exit code.

    Raises:
        SlimlineError: the stack is not up, there is no such deployment, or the run failed.
    """
    stack.require_up()
    use(stack)
    from deployments.follow import run_and_follow
    from deployments.progress import Ticker
    from deployments.summary import code_name, print_outcome

    done = run_and_follow(deployment, given, stack.prefect_url, Ticker(err, quiet=as_json))
    code = Code[code_name(done.outcome)]
    if as_json:
        told = {"deployment": deployment, "run": done.run, "result": done.outcome.model_dump(mode="json")}
        show_json(told | {"exit_code": int(code)})
    else:
        print_outcome(done.outcome, out)
    return code
