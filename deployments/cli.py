"""``slimline``: the embedded stack and the runs on it, from a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.cost import cost
from deployments.images import images
from deployments.lineage import lineage, reproduce
from deployments.local.stack import Stack, stack_here
from deployments.observe import observe
from deployments.rehearse import app as faults
from deployments.shortcuts import Param, comparing, releasing
from tasks.errors import SlimlineError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compress a language model, prove it still answers like the original, and release it a little at a time.",
)
app.add_typer(faults, name="fault")
app.command()(observe)
app.command()(cost)
app.command()(images)
app.command()(lineage)
app.command()(reproduce)
# No markup: a model may write [/INST], and a path may be in brackets.
console = Console(highlight=False, soft_wrap=True, markup=False)

BasePort = Annotated[int | None, typer.Option(help="First of four ports in a row [default: 4310]", min=1024, max=65000)]
Speed = Annotated[
    float | None,
    typer.Option(help="Clock of the endpoint service: its seconds in one of ours [default: 10]", min=1, max=1000),
]


@app.command()
def up(base_port: BasePort = None, speed: Speed = None) -> None:
    """Start Prefect, MLflow, the endpoint service and a worker; serve every deployment.

    Example: slimline up --speed 30
    """
    stack = stack_here(base_port, speed)
    _guarded(lambda: stack.up(console.print))
    _print_pages(stack)


@app.command()
def down(base_port: BasePort = None) -> None:
    """Stop the embedded stack. What was computed, registered and logged stays in .slimline."""
    stack_here(base_port).down(console.print)


@app.command()
def status(
    endpoint: Annotated[str | None, typer.Argument(help="Only this endpoint, with its last rollout")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    aws: Annotated[bool, typer.Option("--aws", help="AWS with your own credentials, not the stack")] = False,
    base_port: BasePort = None,
) -> None:
    """Say what runs, and what every endpoint serves: fleets, share of the traffic, versions, evidence, alarms.

    Exit code 1 when a part of the embedded stack is down.

    Example: slimline status slimline-demo --watch
    """
    stack = stack_here(base_port)
    parts = [] if aws else stack.status()
    if not aws:
        _use(stack)
    from deployments.inspection import draw, facts, keep_drawing

    reachable = aws or ("endpoints", "up") in {(name, state) for name, state, _ in parts}
    if as_json:
        seen = facts(endpoint) if reachable else {"endpoints": [], "last_rollout": [], "rehearsal": ""}
        console.print_json(json.dumps({"parts": parts} | seen))
    else:
        if parts and not (endpoint or watch):
            table = Table("part", "state", "address")
            for row in parts:
                table.add_row(*row)
            console.print(table)
        if reachable and watch:
            _guarded(lambda: keep_drawing(console, lambda: draw(endpoint)))
        elif reachable:
            _guarded(lambda: console.print(draw(endpoint)))
    raise typer.Exit(0 if all(state == "up" for _, state, _ in parts) else 1)


@app.command()
def run(
    deployment: Annotated[
        str, typer.Argument(help="demo, tiny, compress-only, reader, …; see deployments/prefect.yaml")
    ],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="recipe.quantize.bits=8, JSON values")
    ] = None,
    base_port: BasePort = None,
) -> None:
    """Trigger a deployment, follow it, and print how it ended.

    Example: slimline run tiny -p recipe.quantize.bits=8 -p gate.min_agreement=0.9
    """
    stack = stack_here(base_port)
    _guarded(lambda: _run(stack, deployment, _parameters(param or [])))


@app.command()
def compare(
    deployment: Annotated[str, typer.Argument(help="A search in deployments/prefect.yaml")] = "compare",
    recipes: Annotated[int | None, typer.Option(help="How many recipes are tried, at most", min=2, max=200)] = None,
    prefer: Annotated[str | None, typer.Option(help="bytes, quality or speed, among those within budget")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the optimiser", min=0)] = None,
    param: Param = None,
    base_port: BasePort = None,
) -> None:
    """Try many recipes under budgets, and choose one with its reasons.

    Example: slimline compare --recipes 20 --prefer quality -p budgets.max_bytes_ratio=0.2
    """
    stack, given = stack_here(base_port), _parameters(param or [], comparing(recipes, prefer, seed))
    _guarded(lambda: _run(stack, deployment, given))


@app.command()
def release(
    model: Annotated[str, typer.Argument(help="Name of the registered model")],
    version: Annotated[str, typer.Option(help="A number, or an alias")] = "challenger",
    mode: Annotated[
        str, typer.Option(help="canary, linear, all-at-once, rolling, weights, ab-test or shadow")
    ] = "canary",
    endpoint: Annotated[str | None, typer.Option(help="The endpoint, if not the preset's")] = None,
    param: Param = None,
    base_port: BasePort = None,
) -> None:
    """Move traffic onto a registered version, by one of the presets.

    Example: slimline release slimline-tiny --version 3 --mode shadow --endpoint slimline-tiny
    """
    stack, given = stack_here(base_port), _parameters(param or [], releasing(model, version, endpoint))
    _guarded(lambda: _run(stack, f"release-{mode}", given))


@app.command()
def demo(base_port: BasePort = None, speed: Speed = None) -> None:
    """Bring the stack up, run the demo deployment, and leave the stack up to look at."""
    stack = stack_here(base_port, speed)

    def work() -> None:
        stack.up(console.print)
        _run(stack, "demo", {})
        _print_pages(stack)

    _guarded(work)


@app.command()
def why(
    stage: Annotated[str, typer.Argument(help="fetch, prune, quantize, distill or evaluate")],
    base_port: BasePort = None,
) -> None:
    """Say which part of a stage's cache key changed between its last two runs."""
    _use(stack_here(base_port))
    from tasks.caching import why as changes

    lines = changes(stage)
    console.print("\n".join(lines) if lines else f"{stage}: same key as the run before, so it is cached")


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(help="A model folder; or name a registered version")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a registered model in MLflow")] = None,
    version: Annotated[str, typer.Option(help="Its version's number, or an alias")] = "challenger",
    target: Annotated[str | None, typer.Option(help="own_cpu, lmi, huggingface, neuron or jumpstart")] = None,
    instance_type: Annotated[str | None, typer.Option(help="Such as ml.g5.xlarge")] = None,
    mode: Annotated[str | None, typer.Option(help="CANARY, LINEAR, ALL_AT_ONCE, ROLLING, WEIGHTS, …")] = None,
    instances: Annotated[int | None, typer.Option(min=1)] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="More of the plan: target.lmi.max_model_len=4096")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    base_port: BasePort = None,
) -> None:
    """Say whether a version can be served by a container on an instance type and released by a mode. Creates nothing.

    Exit code 0: yes, perhaps with warnings; 1: no, with what to do.

    Example: slimline check --model slimline --version 3 --target lmi --instance-type ml.g5.xlarge --mode CANARY
    """
    if model is not None:
        _use(stack_here(base_port))
    from deployments import check as serving

    def work() -> bool:
        try:
            plan = serving.plan_of(target, instance_type, mode, instances, _parameters(param or []))
        except ValueError as error:  # pydantic's: each field with what it holds and its limit
            raise typer.BadParameter(str(error)) from error
        what, facts = serving.facts_of(folder, model, version, plan)
        found = serving.look(facts, plan)
        if as_json:
            shown = {"what": what, "facts": facts.model_dump(), "plan": plan.model_dump(mode="json")}
            verdict = {"servable": serving.servable(found), "obstacles": [each.facts() for each in found]}
            console.print_json(json.dumps(shown | verdict))
        else:
            console.print(serving.draw(what, facts, plan, found))
        return serving.servable(found)

    raise typer.Exit(0 if _guarded(work) else 1)


@app.command()
def engines(
    build: Annotated[str | None, typer.Option(help="Build this one's environment now: minutes, and gigabytes")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List the other engines that a recipe can choose, what each does, and which environments are built.

    Example: slimline engines --build llm-compressor
    """
    from deployments.engines import build_engine, engine_rows

    if build is not None:
        _guarded(lambda: build_engine(build, stack_here(None).home / "engines", console))
    rows = engine_rows(stack_here(None).home / "engines")
    if as_json:
        console.print_json(json.dumps(rows))
        return
    table = Table(*rows[0])
    table.columns[0].no_wrap = True  # the name is what a person types
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


@app.command()
def doctor(
    aws: Annotated[bool, typer.Option("--aws", help="AWS with your own credentials, not the stack")] = False,
    instance_type: Annotated[str | None, typer.Option(help="Whose quota to look at [default: the form's]")] = None,
    instances: Annotated[int | None, typer.Option(help="Instances of the endpoint", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    base_port: BasePort = None,
) -> None:
    """Check this machine, the servers and the account, and say what to do for each thing that is not as it must be.

    Exit code 1 when a check failed. Changes nothing.

    Example: slimline doctor --aws --instance-type ml.g6e.xlarge --instances 2
    """
    stack = stack_here(base_port)
    if not aws:
        _use(stack)
    from deployments.doctor import examine, report
    from tasks.plans import ReleasePlan
    from tasks.settings import settings

    asked = {"instance_type": instance_type, "instances": instances}
    plan = ReleasePlan.model_validate({name: value for name, value in asked.items() if value is not None})
    prefect = os.environ.get("PREFECT_API_URL", f"{stack.prefect_url}/api")
    raise typer.Exit(report(console, list(examine(settings(), plan, prefect)), as_json))


def _use(stack: Stack) -> None:
    """Point this process at ``stack``. Before Prefect is imported: it reads its settings then."""
    os.environ.update(stack.environment())


def _run(stack: Stack, deployment: str, parameters: dict[str, Any]) -> None:
    stack.require_up()
    _use(stack)
    from deployments.follow import run_and_follow
    from deployments.summary import print_outcome

    print_outcome(run_and_follow(deployment, parameters, stack.prefect_url, console), console)


def _guarded(work: Any) -> Any:
    try:
        return work()
    except SlimlineError as error:
        console.print(Text.assemble((type(error).__name__, "red"), f": {error}"))
        raise typer.Exit(1) from None


def _parameters(pairs: list[str], given: dict[str, Any] | None = None) -> dict[str, Any]:
    """``a.b=1`` becomes ``{"a": {"b": 1}}``, beside what is ``given``. A value that is not JSON is a string."""
    nested: dict[str, Any] = given or {}
    for pair in pairs:
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


def _print_pages(stack: Stack) -> None:
    console.print()
    console.print(f"Prefect    {stack.prefect_url}        runs, artifacts, forms")
    console.print(f"MLflow     {stack.mlflow_url}        lineage, metrics, registry")
    console.print(f"Endpoints  {stack.endpoint_url}/_slimline/  fleets, traffic, alarms")
    console.print(f"boto3      AWS_ENDPOINT_URL={stack.endpoint_url}")
    console.print(f"Files      {_short(stack.home)}    Stop with: make down")


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


if __name__ == "__main__":
    app()
