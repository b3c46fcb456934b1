"""``slimline cost``: what a registered version costs beside its original, and what releasing it would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table

from deployments.commands.names import endpoint_names, model_names, version_names
from deployments.commands.terminal import AsJson, Aws, BasePort, guarded, out, show_json, use_stack
from tasks.errors import RefusedRequest

if TYPE_CHECKING:
    from tasks.contracts import Scorecard


@dataclass(frozen=True)
class Rates:
    """Decoded tokens a second of one instance, original and compressed, and where they were measured."""

    baseline: float
    candidate: float
    machine: str
    concurrency: int = 1


def cost(
    model: Annotated[str, typer.Argument(help="Registered model in MLflow", autocompletion=model_names)] = "slimline",
    version: Annotated[
        str, typer.Argument(help="Its number, or champion, challenger, previous", autocompletion=version_names)
    ] = "champion",
    instance_type: Annotated[
        list[str] | None, typer.Option("--instance-type", "-t", help="Several are compared (default: SLIMLINE_PRICED)")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Whose prices (default: AWS_REGION, else us-east-1)")] = None,
    load: Annotated[float, typer.Option(help="Decoded tokens a month", min=0)] = 1e8,
    utilisation: Annotated[float, typer.Option(help="Share of the time an instance should decode", min=0.01, max=1)] = (
        0.6
    ),
    least: Annotated[int, typer.Option(help="Instances that always stand", min=0, max=100)] = 2,
    months: Annotated[float, typer.Option(help="In which compression should pay for itself", min=0.1, max=120)] = 1.0,
    rate: Annotated[
        float | None, typer.Option(help="Compressed: tokens a second that you have measured", min=1e-6)
    ] = None,
    baseline_rate: Annotated[float | None, typer.Option(help="Original: the same", min=1e-6)] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Measure on this endpoint: it serves the version", autocompletion=endpoint_names)
    ] = None,
    baseline_endpoint: Annotated[
        str | None, typer.Option(help="The same of the original", autocompletion=endpoint_names)
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once when measured", min=1, max=64)] = 1,
    as_json: AsJson = False,
    aws: Aws = False,
    base_port: BasePort = None,
) -> None:
    """Dollars per million tokens, a month's bill, break-even, and what each kind of rollout adds."""
    with guarded(as_json):
        use_stack(aws, base_port, "mlflow")
        from tasks.adapters.lineage import read_scorecard
        from tasks.settings import settings

        scorecard, _ = read_scorecard(settings().mlflow_url, model, version)
        rates = _rates(scorecard, rate, baseline_rate, endpoint, baseline_endpoint, concurrency)
        kinds = instance_type or settings().priced.split(",")
        found = [_facts(scorecard, rates, kind, region, load, utilisation, least, months) for kind in kinds]
    if as_json:
        show_json({"model": model, "version": version, "by_instance_type": found})
        return
    for each in found:
        _print(each)


def _rates(
    scorecard: Scorecard,
    rate: float | None,
    baseline_rate: float | None,
    endpoint: str | None,
    baseline_endpoint: str | None,
    concurrency: int,
) -> Rates:
    """Both sides from one place: a rate from here beside one from there says nothing."""
    from tasks.pricing import rate as of

    given, live = (baseline_rate, rate), (baseline_endpoint, endpoint)
    for what, pair in (("rates", given), ("endpoints", live)):
        if any(pair) and not all(pair):
            raise RefusedRequest(
                f"only one of the two {what} is given, and the other side's was measured elsewhere",
                observed=f"original {pair[0] or 'none'}, compressed {pair[1] or 'none'}",
                limit="both, from the same kind of machine",
                remedy="give --baseline-rate with --rate, --baseline-endpoint with --endpoint, or neither",
            )
    if baseline_rate and rate:
        return Rates(baseline_rate, rate, "where you measured", concurrency)
    if baseline_endpoint and endpoint:
        was, machine = measure(scorecard, baseline_endpoint, concurrency)
        now, _ = measure(scorecard, endpoint, concurrency)
        return Rates(was, now, machine, concurrency)
    machine = scorecard.machine or "a machine without a name"
    was, now = of(scorecard.baseline), of(scorecard.candidate)
    if not (was and now):
        raise RefusedRequest(
            "the scorecard has no decode rate",
            observed=f"{was:g} and {now:g} tokens a second",
            limit="above 0",
            remedy="give --rate and --baseline-rate",
        )
    return Rates(was, now, machine)


def measure(scorecard: Scorecard, endpoint: str, concurrency: int) -> tuple[float, str]:
    """Tokens a second of one instance of a live endpoint, and where that is.

    Raises:
        SlimlineError: it does not serve, or an answer is none.
    """
    from tokenizers import Tokenizer

    from tasks.adapters.sagemaker_errors import endpoint_missing
    from tasks.cloud import sagemaker
    from tasks.rates import live_rate
    from tasks.workbench import machine_here, open_model

    cloud = sagemaker()
    views = cloud.overview(endpoint)
    if not views:
        raise endpoint_missing(endpoint, "DescribeEndpoint found none")
    instances = sum(each.instances for each in views[0].variants if each.role == "serving")
    tokenizer = Tokenizer.from_file(str(open_model(scorecard.baseline_model) / "tokenizer.json"))
    found = live_rate(
        lambda prompt: cloud.probe(endpoint, prompt, {"max_new_tokens": 32}),
        lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids),
        ("The capital of France is", "Once upon a time", "The first step is", "In the year 1900"),
        requests=4 * concurrency,
        concurrency=concurrency,
        instances=max(1, instances),
    )
    where = f"the live endpoint {endpoint}"
    if cloud.describe_rehearsal():
        where += f" on the embedded stack ({machine_here('cpu')})"
    return found.tokens_per_second, where


def _facts(
    scorecard: Scorecard,
    rates: Rates,
    kind: str,
    region: str | None,
    load: float,
    utilisation: float,
    least: int,
    months: float,
) -> dict[str, Any]:
    """Everything about one instance type, as plain values."""
    from tasks.costs import Fleet, break_even_load, rollout_cost, token_cost
    from tasks.figures import cost_notes
    from tasks.plans import Mode, ReleasePlan
    from tasks.pricing import price_of

    price = price_of(kind.strip(), region)
    seconds = scorecard.compression_seconds
    tokens = token_cost(
        price,
        rates.machine,
        rates.baseline,
        rates.candidate,
        concurrency=rates.concurrency,
        compression_seconds=seconds,
    )
    was, now = (Fleet(price.usd_per_hour, each, utilisation, least) for each in (rates.baseline, rates.candidate))
    run = tokens.compression_usd
    plans = [
        ReleasePlan(mode=mode, instance_type=price.instance_type, instances=max(2, now.instances(load)))
        for mode in get_args(Mode)
        if now.instances(load) <= 100
    ]
    return {
        "tokens": tokens.model_dump(mode="json"),
        "load": load,
        "utilisation": utilisation,
        "instances": {"original": was.instances(load), "compressed": now.instances(load)},
        "usd_a_month": {"original": was.usd_a_month(load), "compressed": now.usd_a_month(load)},
        "break_even_load": None if run is None else break_even_load(run, was, now, months),
        "months": months,
        "rollouts": [rollout_cost(plan, price).model_dump(mode="json") for plan in plans],
        "notes": cost_notes((tokens,)),
    }


def _print(facts: dict[str, Any]) -> None:
    from tasks.figures import dollars

    tokens, counts, bills = facts["tokens"], facts["instances"], facts["usd_a_month"]
    table = Table("", "original", "compressed", title=tokens["price"]["instance_type"], title_justify="left")
    table.add_row("decoded tokens a second", f"{tokens['baseline_rate']:.1f}", f"{tokens['candidate_rate']:.1f}")
    table.add_row("$ per million tokens", dollars(tokens["baseline_usd"]), dollars(tokens["candidate_usd"]))
    share = f"{facts['load']:,.0f} tokens a month, {facts['utilisation']:.0%} busy"
    table.add_row(f"instances for {share}", f"{counts['original']}", f"{counts['compressed']}")
    table.add_row("a month of them", dollars(bills["original"]), dollars(bills["compressed"]))
    if tokens["compression_usd"] is not None:
        table.add_row("compression run, at this type's price", "", dollars(tokens["compression_usd"]))
        after = tokens["break_even_tokens"]
        table.add_row("paid back after, never idle", "", "never" if after is None else f"{after:,.0f} tokens")
        load = facts["break_even_load"]
        said = "never" if load is None else "any load" if load == 1 else f"from {load:,} tokens a month on"
        table.add_row(f"paid back within {facts['months']:g} months", "", said)
    out.print(table)
    if facts["rollouts"]:
        rollouts = Table("rollout adds", "at least", "at most", "instances more")
        for each in facts["rollouts"]:
            low, high = each["usd"]
            rollouts.add_row(each["mode"], dollars(low), dollars(high), f"{each['extra_instances']}")
        out.print(rollouts)
    for note in facts["notes"]:
        out.print(note, style="dim")
