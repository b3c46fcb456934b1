"""Prices put to what was measured and to what is planned: for scorecards, before a rollout and after it.

A type without a price is said to have none; that never stops a run.
"""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from tasks.adapters.prices import NoPrice, PriceTable
from tasks.cloud import sagemaker
from tasks.contracts import Compressed, Exported, Price, ReleaseCost, Rollout, Score, Scorecard, TokenCost
from tasks.costs import rollout_cost, token_cost, with_observed
from tasks.errors import Refused
from tasks.figures import release_cost_lines
from tasks.plans import ReleasePlan
from tasks.settings import settings
from tasks.workbench import logger


def price_of(instance_type: str, region: str | None = None) -> Price:
    """The hourly price by the settings' table; in the settings' region unless told.

    Raises:
        NoPrice: says how to add one.
        Refused: the file that SLIMLINE_PRICES names is none.
    """
    return PriceTable(settings().prices).price(instance_type, region or settings().region)


def rate(score: Score) -> float:
    """Decoded tokens a second of one request after its first token; 0 where no time was measured."""
    return 1e3 / score.per_token_ms if score.per_token_ms else 0.0


def priced(scorecard: Scorecard, stages: tuple[Compressed, ...] = (), exported: Exported | None = None) -> Scorecard:
    """The scorecard with what tokens cost on each type of SLIMLINE_PRICED: at the rates of the machine that measured
    them, one request at a time.

    ``stages`` and ``exported`` are what the compression run took, as it was computed; a cached stage counts as then.
    """
    seconds = sum(stage.seconds for stage in stages) + (exported.seconds if exported else 0.0) if stages else None
    scorecard = scorecard.model_copy(update={"compression_seconds": seconds})
    costs = [found for kind in _priced_types() if (found := _cost(scorecard, kind)) is not None]
    return scorecard.model_copy(update={"costs": tuple(costs)})


def _cost(scorecard: Scorecard, instance_type: str) -> TokenCost | None:
    was, now = rate(scorecard.baseline), rate(scorecard.candidate)
    if not (was and now):
        return None
    try:
        price = price_of(instance_type)
    except NoPrice as error:
        logger().warning("the scorecard shows no dollars for %s: %s", instance_type, error)
        return None
    seconds = scorecard.compression_seconds
    return token_cost(price, scorecard.machine or "a machine without a name", was, now, compression_seconds=seconds)


def _priced_types() -> list[str]:
    return [kind.strip() for kind in settings().priced.split(",") if kind.strip()]


def require_priced() -> None:
    """Refuse a budget in dollars that nothing could be held against, before any work.

    Raises:
        Refused: no instance type of SLIMLINE_PRICED has a price.
    """
    kinds, reasons = _priced_types(), list[str]()
    for kind in kinds:
        try:
            price_of(kind)
        except NoPrice as error:
            reasons.append(str(error))
    if len(reasons) == len(kinds):
        raise Refused(
            "a budget in dollars needs an instance type with a price",
            observed="; ".join(reasons) or "SLIMLINE_PRICED is empty",
            limit="one type of SLIMLINE_PRICED with a price",
            remedy="name one there, add its price to the file of SLIMLINE_PRICES, or ask for max_token_ms instead",
        )


def check_prices() -> None:
    """Refuse a table that SLIMLINE_PRICES names and that is none, before any work.

    Raises:
        Refused: with what is wrong with it.
    """
    PriceTable(settings().prices)


def planned_cost(plan: ReleasePlan) -> ReleaseCost | None:
    """What the rollout will add to the bill in the region that it goes to; none, and a warning, without a price."""
    try:
        return rollout_cost(plan, price_of(plan.instance_type, sagemaker().region))
    except NoPrice as error:
        logger().warning("nobody can say what this rollout costs: %s", error)
        return None


def costed(rollout: Rollout, plan: ReleasePlan) -> Rollout:
    """The rollout with what it has cost, where an old fleet stood beside a new one."""
    if rollout.phase not in ("promoted", "restored"):
        return rollout
    planned = planned_cost(plan)
    if planned is None:
        return rollout
    return rollout.model_copy(update={"cost": with_observed(planned, rollout.observations)})


def report_planned(plan: ReleasePlan) -> None:
    """Before anything moves: what the rollout will add to the bill, or that there is no price."""
    cost = planned_cost(plan)
    create_markdown_artifact(
        planned_markdown(plan, cost), key="rollout-cost", description=f"What {plan.mode} on {plan.endpoint} costs"
    )


def planned_markdown(plan: ReleasePlan, cost: ReleaseCost | None) -> str:
    if cost is None:
        return (
            f"# Cost of the rollout: not known\nThere is no price for `{plan.instance_type}`. Add one with "
            "SLIMLINE_PRICES (docs/cost.md)."
        )
    return "\n".join(["# Cost of the rollout", *(f"- {line}" for line in release_cost_lines(cost))])
